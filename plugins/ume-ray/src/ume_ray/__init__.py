"""Corpora embedded into an index by a Ray cluster.

```python
import ray
from ume_ray import Columns, embed_dataset

ds = ray.data.read_parquet("products.parquet")
report = embed_dataset(ds, "my-index", columns=Columns(id="sku", text="title"))
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ume_core.lazy import lazy_names

if TYPE_CHECKING:
    from ume_ray.cluster import Workers
    from ume_ray.columns import Columns
    from ume_ray.datasets import DatasetReport, embed_dataset

__all__ = ["Columns", "DatasetReport", "Workers", "embed_dataset"]

__getattr__ = lazy_names(
    __name__,
    {
        "ume_ray.cluster": "Workers",
        "ume_ray.columns": "Columns",
        "ume_ray.datasets": "DatasetReport embed_dataset",
    },
    distribution="ume-ray",
)
