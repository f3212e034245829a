"""Linear layers whose weights oneDNN has laid out once, for serving on a CPU.

torch hands oneDNN plain weights, which costs a reordering or a slower kernel in every call; a
decoding step is hardly more than those calls (8 rows of the 2B shape in bfloat16 on two AVX-512
cores: 153 ms a step instead of 254). TorchInductor's freezing
uses the same two operators; where a build of torch lacks them, layers stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """`nn.Linear` over a reordered weight. Inference only; the plain weight is gone."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")


def pack_linears(module: nn.Module) -> None:
    """Replace every `nn.Linear` below `module` by its packed form, one at a time."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, packed(child))


def packed(linear: nn.Linear) -> nn.Module:
    """The layer's packed form, or the layer itself where this CPU and torch have none."""
    operators: Any = torch.ops.mkldnn
    if not hasattr(operators, "_reorder_linear_weight"):
        return linear
    dtypes = {torch.float32}
    if cpu_has_bfloat16():
        dtypes.add(torch.bfloat16)
    return PackedLinear(linear) if linear.weight.dtype in dtypes else linear


def cpu_has_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 matrices natively on this CPU; not without AVX-512."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())
