"""UME-R1: multimodal embeddings that can think first.

```python
import ume_r1 as ume

model = ume.load("ume-nano")
result = model.embed(["a red apple", ume.Image("apple.png")], mode="both")
result.disc @ result.disc.T
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ume_core.lazy import lazy_names

if TYPE_CHECKING:
    from ume_core import (
        EmbeddingResult,
        Image,
        Item,
        Limits,
        LoadOptions,
        Policy,
        Sampling,
        Signature,
        SignatureMismatch,
        Text,
        UmeError,
        Video,
        similarity,
    )
    from ume_r1.loading import load

    __version__: str

__all__ = [
    "EmbeddingResult",
    "Image",
    "Item",
    "Limits",
    "LoadOptions",
    "Policy",
    "Sampling",
    "Signature",
    "SignatureMismatch",
    "Text",
    "UmeError",
    "Video",
    "load",
    "similarity",
]

__getattr__ = lazy_names(
    __name__,
    {
        "ume_core": "EmbeddingResult Image Item Limits LoadOptions Policy Sampling Signature"
        " SignatureMismatch Text UmeError Video similarity",
        "ume_r1.loading": "load",
    },
    distribution="ume-r1",
)


def __dir__() -> list[str]:
    return sorted(__all__)
