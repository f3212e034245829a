"""One export, from checkpoint to a directory that says of itself that it passed."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from optimum.exporters.onnx import export as optimum_export
from safetensors import safe_open

from ume_core.errors import CheckpointError, InvalidOption
from ume_export.configs import OPSET, onnx_config, prefix_of
from ume_export.operators import check_operators
from ume_export.parity import BOUNDS, check_parity
from ume_qwen.checkpoint import Checkpoint, find_checkpoint
from ume_qwen.digests import files_digest
from ume_qwen.directories import new_directory
from ume_qwen.exported.inputs import TEXT, VISION
from ume_qwen.exported.manifest import Manifest
from ume_torch.checkpoint import load_model


def export(
    model: str | Path,
    directory: Path,
    *,
    name: str | None = None,
    precision: str = "float32",
    opset: int = OPSET,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Manifest:
    """Export the disc encoder of `model` into the new `directory`.

    Args:
        model: a checkpoint directory or hub id.
        name: for the manifest.
        precision: a key of `ume_export.parity.BOUNDS`.
        say: told what happens, line by line.

    Raises:
        InvalidOption: the directory is taken. CheckpointError: no UME-R1 checkpoint, a graph with
            an operator TensorRT does not take, or parity beyond the bound; nothing is left behind.
    """
    if precision not in BOUNDS:
        raise InvalidOption(
            f"unknown precision {precision!r}", fix=f"use one of: {', '.join(BOUNDS)}"
        )
    with new_directory(directory) as part:
        checkpoint = find_checkpoint(model, name=name)
        size = sum(f.stat().st_size for f in checkpoint.weight_files())
        peak = _peak(checkpoint)
        say(f"{checkpoint.name}: {size / 1e9:.2f} GB of weights; expect a peak of about "
            f"{peak / 1e9:.1f} GB of memory")  # fmt: skip
        return _export_into(part, checkpoint, precision, opset, say)


def _export_into(
    part: Path, checkpoint: Checkpoint, precision: str, opset: int, say: Callable[[str], None]
) -> Manifest:
    began = time.monotonic()
    torch_dtype = "float32" if precision == "int8" else precision
    loaded = load_model(checkpoint, "cpu", torch_dtype, "eager")
    say("tracing the vision and text graphs")
    folder = part / "onnx"
    logging.getLogger("optimum").setLevel(logging.ERROR)
    folder.mkdir()
    graphs = {graph: folder / f"{graph}.onnx" for graph in (VISION, TEXT)}
    loaded.lm_head = None
    prefix, _ = prefix_of(loaded)
    for graph, path in graphs.items():
        config = onnx_config(graph, loaded.config)
        # Optimum's fix of axes loads the graph once more, which ONNX Runtime on a CPU cannot for
        # bfloat16; our configurations name every axis that is not fixed.
        optimum_export(loaded, config, path, opset=opset, disable_dynamic_axes_fix=True)
        if graph == VISION:  # the text graph's turn needs the memory
            loaded.model.visual = None
    del loaded
    for graph, path in graphs.items():
        check_operators(path, graph)
        if precision == "int8":
            say(f"quantising {graph}")
            _quantise(path)
    for side in checkpoint.side_files():
        shutil.copyfile(side, part / side.name)
    say(f"exported in {time.monotonic() - began:.0f} s; checking parity against ume-torch")
    manifest = Manifest(
        model=checkpoint.name,
        weights=checkpoint.digest(),
        precision=precision,
        opset=opset,
        inputs={graph: _inputs(path) for graph, path in graphs.items()},
        prefix=prefix.as_json(),
        graphs_digest=files_digest(sorted(folder.iterdir())),
        parity={"passed": False},
        versions={
            n: version(n) for n in ("torch", "transformers", "optimum", "optimum-onnx", "onnx")
        },
    )
    manifest.write(part)
    parity = check_parity(checkpoint.directory, part, precision)
    for case, figures in parity["cases"].items():
        say(f"  {case:16} max difference {figures['max_difference']:.1e}, "
            f"cosine {figures['cosine']:.6f}")  # fmt: skip
    if not parity["passed"]:
        raise CheckpointError(
            f"the {precision} export differs from ume-torch by {parity['max_difference']:.1e} "
            f"(cosine {parity['cosine']:.6f}); the bound is {BOUNDS[precision]}",
            fix="use a higher precision; if this is float32, report it as a bug",
        )
    checked = replace(manifest, parity=parity)
    checked.write(part)
    return checked


def _peak(checkpoint: Checkpoint) -> int:
    """Bytes: of the parity check, which holds the graphs in float32 whatever their precision.

    ONNX Runtime computes so on a CPU. Measured at the 2B shape: 14.7 GB exported in float32,
    14.5 in float16, where 8.8 are the weights in float32. The least is ume-nano's: libraries.
    """
    parameters = 0
    for path in (p for p in checkpoint.weight_files() if p.suffix == ".safetensors"):
        with safe_open(path, "numpy") as file:
            for key in file.keys():  # noqa: SIM118
                parameters += math.prod(file.get_slice(key).get_shape())
    return max(1_100_000_000, int(1.7 * 4 * parameters))


def _quantise(path: Path) -> None:
    """int8 weights of all MatMuls, per channel; activations are quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_suffix(".int8.onnx")
    large = (path.parent / f"{path.name}_data").exists()
    logging.getLogger().setLevel(logging.ERROR)
    # Seven bits: with eight, CPUs without VNNI saturate where they add two products (ume-nano's
    # gallery: cosine 0.947 at least, with seven 0.998; as fast).
    quantize_dynamic(
        path, target, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"], use_external_data_format=large,
    )  # fmt: skip
    path.with_name(path.name + "_data").unlink(missing_ok=True)
    os.replace(target, path)


def _inputs(path: Path) -> dict[str, list[Any]]:
    graph = onnx.load(str(path), load_external_data=False).graph
    found: dict[str, list[Any]] = {}
    for entry in graph.input:
        kind = entry.type.tensor_type
        axes = [d.dim_param or d.dim_value for d in kind.shape.dim]
        found[entry.name] = [onnx.TensorProto.DataType.Name(kind.elem_type), axes]
    return found
