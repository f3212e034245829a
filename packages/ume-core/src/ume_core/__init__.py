"""The embedding contract of UME-R1: items, modes, results, signatures, limits, errors, plugins.

Imports neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ume_core.lazy import lazy_names

if TYPE_CHECKING:
    from ume_core.embedder import Embedder, Sampling
    from ume_core.errors import (
        CheckpointError,
        DeadlineExceeded,
        EngineUnavailable,
        InvalidItem,
        InvalidOption,
        LimitExceeded,
        MediaError,
        ModeNotSupported,
        PluginError,
        PolicyViolation,
        SignatureMismatch,
        UmeError,
    )
    from ume_core.items import Image, Item, ItemLike, Text, Video, as_item, as_items
    from ume_core.limits import Limits, Policy
    from ume_core.loading import load
    from ume_core.options import LoadOptions
    from ume_core.prompts import PROMPTS, Prompt
    from ume_core.results import EmbeddingResult, Record, Sample, similarity
    from ume_core.session import open_session
    from ume_core.signature import Mode, Signature

    __version__: str

__all__ = [
    "PROMPTS",
    "CheckpointError",
    "DeadlineExceeded",
    "Embedder",
    "EmbeddingResult",
    "EngineUnavailable",
    "Image",
    "InvalidItem",
    "InvalidOption",
    "Item",
    "ItemLike",
    "LimitExceeded",
    "Limits",
    "LoadOptions",
    "MediaError",
    "Mode",
    "ModeNotSupported",
    "PluginError",
    "Policy",
    "PolicyViolation",
    "Prompt",
    "Record",
    "Sample",
    "Sampling",
    "Signature",
    "SignatureMismatch",
    "Text",
    "UmeError",
    "Video",
    "as_item",
    "as_items",
    "load",
    "open_session",
    "similarity",
]

# `ume --help` and plugins' entry modules need neither numpy nor PIL.
__getattr__ = lazy_names(
    __name__,
    {
        "ume_core.embedder": "Embedder Sampling",
        "ume_core.errors": "CheckpointError DeadlineExceeded EngineUnavailable InvalidItem"
        " InvalidOption LimitExceeded MediaError ModeNotSupported PluginError PolicyViolation"
        " SignatureMismatch UmeError",
        "ume_core.items": "Image Item ItemLike Text Video as_item as_items",
        "ume_core.limits": "Limits Policy",
        "ume_core.loading": "load",
        "ume_core.options": "LoadOptions",
        "ume_core.prompts": "PROMPTS Prompt",
        "ume_core.results": "EmbeddingResult Record Sample similarity",
        "ume_core.session": "open_session",
        "ume_core.signature": "Mode Signature",
    },
    distribution="ume-core",
)


def __dir__() -> list[str]:
    return sorted(__all__)
