"""`load`, with the embedded model as the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ume_core.embedder import Embedder
from ume_core.loading import load as load_model
from ume_core.options import LoadOptions
from ume_r1.settings import DEFAULT_MODEL


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    engine: str = "auto",
    options: LoadOptions | None = None,
    **changes: Any,
) -> Embedder:
    """See `ume_core.load`; the default model is the embedded one."""
    return load_model(model, engine=engine, options=options, **changes)
