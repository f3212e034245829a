"""What the machine is, what it can do at most, and which parts of the project it can import."""

from __future__ import annotations

import importlib
import os
import platform
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tools.benchmark.flops import read_rate
from tools.gpu_check.findings import Findings, NotRun, require
from tools.gpu_check.place import Place
from tools.gpu_check.stand_ins import varlen_kernel
from ume_torch.attention import Segments
from ume_torch.testing.kernels import Kernel

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = (
    "torch", "triton", "transformers", "sentence-transformers", "onnxruntime", "safetensors",
    "tokenizers", "huggingface-hub", "jinja2", "pluggy", "pillow", "numpy", "pyarrow", "matplotlib",
    "pytest", "peft", "accelerate", "torchvision", "qwen-vl-utils", "mteb", "lancedb", "av",
    "flash-attn", "tensorrt",
)  # fmt: skip


def run(place: Place, findings: Findings) -> None:
    """All checks of the stage."""
    findings.check("machine", lambda: machine(place))
    for folder in sorted([*ROOT.glob("packages/*/src/*"), *ROOT.glob("plugins/*/src/*")]):
        if folder.name != "llama_index":  # a namespace package: nothing to import
            findings.check(f"import {folder.name}", partial(member, folder.name))
    findings.check("onnxruntime", providers)
    findings.check("tensorrt", lambda: require("tensorrt"))
    if not findings.passed("device", place.require_device):
        return
    findings.check("matrix products", lambda: products(place))
    findings.check("reading", lambda: {"GB/s": round(read_rate(place.device) / 1e9, 1)})
    for heads, kv_heads, dim, causal in ((12, 2, 128, True), (16, 16, 80, False)):
        tower = "decoder" if causal else "vision tower"
        findings.check(
            f"varlen attention, {tower}",
            partial(varlen, place, heads, kv_heads, dim, causal),
        )
    findings.check("a CUDA graph", lambda: graph(place))
    for shape in (place.main, place.second):
        findings.check(f"checkpoint {shape}", partial(checkpoint, place, shape))


def machine(place: Place) -> dict[str, Any]:
    """Versions and hardware."""
    found: dict[str, Any] = {
        "python": platform.python_version(), "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "memory GB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
    }  # fmt: skip
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["CUDA of torch"] = torch.version.cuda
    if place.cuda and place.available:
        properties = torch.cuda.get_device_properties(place.device)
        found |= {
            "device": properties.name, "capability": f"{properties.major}.{properties.minor}",
            "device memory GB": round(properties.total_memory / 1e9, 1),
            "multiprocessors": properties.multi_processor_count,
        }  # fmt: skip
    return found


def member(name: str) -> None:
    """Import it; what it needs and is not there is named."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == name:
            raise
        raise NotRun(f"{error.name} is not installed") from error


def products(place: Place) -> dict[str, float]:
    """TFLOP/s of one large product, which nothing here can exceed."""
    side = 512 if place.small else 8192
    found: dict[str, float] = {}
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=place.device).to(dtype) for _ in range(2))
        rounds = 3 if place.small else 20
        best = min(place.seconds(lambda a=a, b=b: F.linear(a, b)) for _ in range(rounds))
        name = f"{str(dtype).removeprefix('torch.')} TFLOP/s"
        found[name] = round(2 * side**3 / best / 1e12, 2)
    return found


def varlen(place: Place, heads: int, kv_heads: int, dim: int, causal: bool) -> dict[str, float]:
    """The kernel against its documented meaning, and against a call a segment."""
    kernel = varlen_kernel(place.device)
    if kernel is None:
        raise NotRun("torch has no kernel for many segments on this device")
    lengths = [70, 30, 9, 1] if place.small else [70, 300, 9, 1024]
    segments = Segments.of(lengths, torch.device(place.device))
    torch.manual_seed(0)
    q = torch.randn(sum(lengths), heads, dim, device=place.device, dtype=torch.bfloat16)
    k, v = (
        torch.randn(sum(lengths), kv_heads, dim, device=place.device, dtype=torch.bfloat16)
        for _ in range(2)
    )
    found = kernel(q, k, v, segments, segments, causal=causal).float().cpu()
    sums = segments.sums.cpu()
    right = Kernel().flash_attn(
        q.float().cpu(), k.float().cpu(), v.float().cpu(), cu_seqlens_q=sums, cu_seqlens_k=sums,
        max_seqlen_q=max(lengths), max_seqlen_k=max(lengths), causal=causal,
    )  # fmt: skip
    difference = float((found - right).abs().max())
    if not difference < 0.03:  # values of about 1, of 8 bits each
        raise AssertionError(f"differs by {difference:.3g} from its documented meaning")

    def loop() -> None:
        for part in zip(*(t.split(lengths) for t in (q, k, v)), strict=True):
            a, b, c = (t.transpose(0, 1)[None] for t in part)
            F.scaled_dot_product_attention(a, b, c, is_causal=causal, enable_gqa=True)

    def one() -> None:
        kernel(q, k, v, segments, segments, causal=causal)

    return {"largest difference": difference} | {
        f"{name} ms": 1000 * sorted(place.seconds(work) for _ in range(20))[10]
        for name, work in (("one call", one), ("a call a segment", loop))
    }


def graph(place: Place) -> dict[str, float]:
    """Whether one can be captured and replayed."""
    if not place.cuda:
        raise NotRun("only a CUDA device has graphs")
    x = torch.zeros(4, device=place.device)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        y = x + 1
    x.fill_(2)
    recorded.replay()
    torch.cuda.synchronize()
    if y.tolist() != [3.0] * 4:
        raise AssertionError(f"a replayed addition gave {y.tolist()}")
    return {"replay us": 1e6 * min(place.seconds(recorded.replay) for _ in range(20))}


def providers() -> list[str]:
    """ONNX Runtime's."""
    require("onnxruntime")
    import onnxruntime

    return onnxruntime.get_available_providers()


def checkpoint(place: Place, shape: str) -> dict[str, float]:
    """Make the random weights that later stages load."""
    directory = place.checkpoint(shape)
    return {"GB": sum(p.stat().st_size for p in directory.iterdir() if p.is_file()) / 1e9}
