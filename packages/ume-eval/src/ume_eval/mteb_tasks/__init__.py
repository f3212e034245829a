"""MMEB-V2 as mteb tasks, generated from the same description as our own runner's.

Any model of mteb can be scored with them, and mteb's metrics are an independent check of ours.

```python
import mteb
from ume_eval.mteb_tasks import benchmark, mteb_tasks

tasks = mteb_tasks("MMEB-V2-data", protocol="v2.1", tasks=["MSVD"])
mteb.evaluate(mteb.get_model("zhibinlan/UME-R1-2B"), tasks)
```
"""

from ume_eval.mteb_tasks.generate import benchmark, mteb_name, mteb_task, mteb_tasks

__all__ = ["benchmark", "mteb_name", "mteb_task", "mteb_tasks"]
