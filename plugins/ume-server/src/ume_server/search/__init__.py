"""The search page over an index."""
