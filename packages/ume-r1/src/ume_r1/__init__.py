"""UME-R1: multimodal embeddings that can think first.

```python
import ume_r1 as ume

model = ume.load("ume-nano")
result = model.embed(["a red apple", ume.Image("apple.png")], mode="both")
result.disc @ result.disc.T
```
"""

from ume_core import (
    EmbeddingResult,
    Image,
    Item,
    Limits,
    LoadOptions,
    Policy,
    Sampling,
    Signature,
    Text,
    UmeError,
    Video,
    similarity,
)
from ume_r1.loading import load

__all__ = [
    "EmbeddingResult",
    "Image",
    "Item",
    "Limits",
    "LoadOptions",
    "Policy",
    "Sampling",
    "Signature",
    "Text",
    "UmeError",
    "Video",
    "load",
    "similarity",
]
