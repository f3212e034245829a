"""A search index over a folder: LanceDB on disk, with what is needed to load its model again.

```python
from ume_r1.index import Index

index = Index.open("my-index")
model = index.load_model()
hits = index.search(model.embed(["a red apple"]).disc[0], "disc", top=5)
```
"""

from ume_r1.index.build import BuildReport, build_index
from ume_r1.index.description import Description
from ume_r1.index.errors import DamagedIndex
from ume_r1.index.store import Hit, Index

__all__ = ["BuildReport", "DamagedIndex", "Description", "Hit", "Index", "build_index"]
