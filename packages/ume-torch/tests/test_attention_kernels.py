"""One attention call for all segments means the same as the loop over them."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from ume_torch import TorchEmbedder
from ume_torch.attention import find_varlen
from ume_torch.runner import Kernels
from ume_torch.testing.engine import close, many_items
from ume_torch.testing.kernels import Kernel

Make = Callable[[str], Path]
KINDS = ["qwen2_vl", "qwen2_5_vl"]


@pytest.mark.parametrize("library", ["flash_attention_2", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_call_for_all_segments_means_the_same_as_the_loop(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch, library: str, kind: str
) -> None:
    import torch.nn.attention.varlen as torchs

    expected = TorchEmbedder(checkpoint(kind)).embed(many_items(), mode="both", max_new_tokens=4)
    kernel = Kernel()
    fake = types.ModuleType("flash_attn")
    fake.__spec__ = ModuleSpec("flash_attn", None)  # transformers looks for it
    fake.flash_attn_varlen_func = kernel.flash_attn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", fake)
    assert {"window_size", "enable_gqa"} <= set(inspect.signature(torchs.varlen_attn).parameters)
    monkeypatch.setattr(torchs, "varlen_attn", kernel.torch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    varlen = find_varlen(library, "cuda", "bfloat16")
    assert varlen is not None
    again = TorchEmbedder(checkpoint(kind), kernels=Kernels(varlen))
    for _ in range(2):  # the second time with cached prefixes
        close(again.embed(many_items(), mode="both", max_new_tokens=4), expected)
    assert kernel.calls > 0


def test_no_kernel_is_taken_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert find_varlen("sdpa", "cpu", "bfloat16") is None
    assert find_varlen("sdpa", "cuda", "float32") is None
    assert find_varlen("sdpa", "cuda", "bfloat16") is None
