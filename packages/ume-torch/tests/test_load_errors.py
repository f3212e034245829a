"""What is said when loading fails in a way that no reader of a file has named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ume_core import CheckpointError, EngineUnavailable, LimitExceeded, UmeError
from ume_torch import TorchEmbedder

CASES = [
    (
        KeyError("rope_theta"),
        CheckpointError,
        r"KeyError: 'rope_theta'.*see whether ume-nano loads",
    ),
    (MemoryError(), LimitExceeded, "does not fit in memory.*bfloat16"),
    (torch.OutOfMemoryError("CUDA out of memory"), LimitExceeded, "does not fit in memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), LimitExceeded, "free memory"),
    (ImportError("libcudart.so.13"), EngineUnavailable, "libcudart.*pip install --force-reinstall"),
]


@pytest.mark.parametrize(("error", "kind", "says"), CASES, ids=str)
def test_the_fix_suits_the_error(
    error: Exception, kind: type[UmeError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(TorchEmbedder, "_load", fail)
    with pytest.raises(kind, match=says) as caught:
        TorchEmbedder(Path("some/model"))
    assert caught.value.__cause__ is error
