"""Faults of the disk and of processes, made on purpose, against the search index."""
