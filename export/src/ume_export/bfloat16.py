"""Checking bfloat16 graphs where nothing multiplies bfloat16 matrices: on a CPU.

ONNX Runtime has no such MatMul there. What can be checked is everything but the rounding between
the operators: the same graph, its weights as stored and its arithmetic in float32, against
ume-torch in float32 on the same rounded weights. Then nothing may differ but float32's rounding.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from safetensors.torch import load_file, save_file

from ume_core.options import LoadOptions
from ume_onnxruntime.engine import create
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.exported.embedder import ExportedEmbedder
from ume_qwen.exported.inputs import TEXT, VISION
from ume_qwen.exported.manifest import Manifest


@contextmanager
def on_cpu(directory: Path, precision: str) -> Iterator[ExportedEmbedder]:
    """An export on ONNX Runtime's CPU, checked or not; bfloat16's as its float32 twin."""
    options = LoadOptions(device="cpu")
    if precision != "bfloat16":
        yield create(directory, options, unchecked=True)
        return
    with TemporaryDirectory(dir=directory, prefix=".float32-") as twin:  # where room was made
        write_twin(directory, Path(twin))
        yield create(twin, options, unchecked=True)


def write_twin(directory: Path, twin: Path) -> None:
    """The export with bfloat16 replaced by float32, its weights being the same numbers."""
    for path in directory.iterdir():
        if path.is_file():
            shutil.copyfile(path, twin / path.name)
    replace(Manifest.read(directory, unchecked=True), precision="float32").write(twin)
    (twin / "onnx").mkdir()
    for graph in (VISION, TEXT):
        model = onnx.load(str(directory / "onnx" / f"{graph}.onnx"))
        _widen(model.graph)
        target = twin / "onnx" / f"{graph}.onnx"
        large = sum(4 * math.prod(t.dims) for t in model.graph.initializer) > 1 << 30
        onnx.save(
            model, str(target), save_as_external_data=large, location=f"{graph}.onnx_data"
        )  # one file, below protobuf's 2 GB where it can be


def _widen(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
            elif attribute.HasField("t"):
                _widen_tensor(attribute.t)
    del graph.value_info[:]  # the types inferred for bfloat16; the graph stands without them


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.BFLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        # In place: a message of its own could not hold the 2.2 GB of a 7B's embeddings.
        tensor.ClearField("int32_data")
        tensor.data_type = TensorProto.FLOAT
        tensor.raw_data = values.tobytes()


@contextmanager
def rounded(checkpoint: Path, room: Path) -> Iterator[Path]:
    """The checkpoint with its weights rounded to bfloat16; itself where they are stored so.

    Args:
        room: a directory with room for the weights.
    """
    found = find_checkpoint(checkpoint)
    weights = found.weight_files()
    shards = [path for path in weights if path.suffix == ".safetensors"]
    if all(_is_bfloat16(path) for path in shards):
        yield checkpoint
        return
    with TemporaryDirectory(dir=room, prefix=".rounded-") as folder:
        for path in (*found.side_files(), *weights):
            if path not in shards:
                shutil.copyfile(path, Path(folder, path.name))
        for path in shards:
            tensors = {key: value.to(torch.bfloat16) for key, value in load_file(path).items()}
            save_file(tensors, Path(folder, path.name), metadata={"format": "pt"})
        yield Path(folder)


def _is_bfloat16(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return all(file.get_slice(key).get_dtype() == "BF16" for key in file.keys())  # noqa: SIM118
