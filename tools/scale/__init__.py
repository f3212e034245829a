"""A million rows of synthetic vectors: what an index of that size costs."""
