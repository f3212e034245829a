"""A search index over a folder: LanceDB on disk, with what is needed to load its model again.

```python
from ume_r1.index import Index

index = Index.open("my-index")
model = index.load_model()
hits = index.search(model.embed(["a red apple"]).disc[0], "disc", top=5)
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ume_core.lazy import lazy_names

if TYPE_CHECKING:
    from ume_r1.index.build import build_index
    from ume_r1.index.description import Description
    from ume_r1.index.errors import DamagedIndex
    from ume_r1.index.finding import Answer, find
    from ume_r1.index.hits import Hit
    from ume_r1.index.report import BuildReport
    from ume_r1.index.store import Index

__all__ = [
    "Answer",
    "BuildReport",
    "DamagedIndex",
    "Description",
    "Hit",
    "Index",
    "build_index",
    "find",
]

__getattr__ = lazy_names(
    __name__,
    {
        "ume_r1.index.build": "build_index",
        "ume_r1.index.description": "Description",
        "ume_r1.index.errors": "DamagedIndex",
        "ume_r1.index.finding": "Answer find",
        "ume_r1.index.hits": "Hit",
        "ume_r1.index.report": "BuildReport",
        "ume_r1.index.store": "Index",
    },
    distribution="ume-r1",
)
