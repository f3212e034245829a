"""What VllmOptions refuses; vLLM is not needed."""

from __future__ import annotations

from typing import Any

import pytest

from ume_core import InvalidOption
from ume_vllm.options import VllmOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [("rows", 0), ("tensor_parallel", 0), ("gpu_memory", 1.5), ("kv_gib", 0.0), ("context", 0)],
)
def test_options_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=rf"{name} is .*Fix: "):
        VllmOptions(**{name: value})
