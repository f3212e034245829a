"""Where a graph's inputs and output lie: one block of memory, planned for the largest request.

The same plan holds on the device and in pinned host memory, so that a request is one write into
host memory, copies of what it uses, and one read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ume_qwen.exported.inputs import OUTPUTS, TEXT
from ume_qwen.sizes import MERGE
from ume_tensorrt.profiles import Inputs, Profile, shape

# CUDA's allocations are aligned so; TensorRT asks that of addresses it is given.
ALIGNMENT = 256
# ONNX's element types that the graphs' inputs have, as the manifest names them.
DTYPES: dict[str, type[np.generic]] = {"FLOAT": np.float32, "INT64": np.int64}


@dataclass(frozen=True)
class Buffers:
    """A graph's block.

    Attributes:
        offsets: byte of the block at which each tensor starts.
        nbytes: of the block.
        output: name of the graph's one output, float32.
    """

    offsets: dict[str, int]
    nbytes: int
    output: str


def plan(graph: str, inputs: Inputs, profiles: Sequence[Profile], hidden: int) -> Buffers:
    """The block that holds any request some profile admits."""
    output = OUTPUTS[graph]
    sizes = {
        name: max(nbytes(shape(inputs, name, p.most()), inputs[name][0]) for p in profiles)
        for name in inputs
    }
    sizes[output] = max(
        nbytes(output_shape(graph, p.most(), hidden), "FLOAT") for p in profiles
    )  # fmt: skip
    offsets: dict[str, int] = {}
    end = 0
    for name, size in sizes.items():
        offsets[name] = end
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return Buffers(offsets, end, output)


def output_shape(graph: str, sizes: Mapping[str, int], hidden: int) -> tuple[int, ...]:
    """The output's shape at the given sizes."""
    if graph == TEXT:
        return (sizes["rows"], hidden)
    return (sizes["images"], sizes["patches"] // MERGE**2, hidden)


def nbytes(dims: tuple[int, ...], element: str) -> int:
    """Bytes of a tensor."""
    return int(np.prod(dims, dtype=np.int64)) * np.dtype(DTYPES[element]).itemsize
