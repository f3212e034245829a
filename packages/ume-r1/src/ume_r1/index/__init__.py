"""A search index over a folder: LanceDB on disk, the signature stored with it."""

from ume_r1.index.build import BuildReport, build_index
from ume_r1.index.store import Hit, Index

__all__ = ["BuildReport", "Hit", "Index", "build_index"]
