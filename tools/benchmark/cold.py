"""Cold starts: what a first vector costs, each time in a process of its own: `tools/bench --cold`.

Everybody has ume-nano in float32 and embeds one text and one picture. CPU seconds of the process,
medians of the rounds; files are in the disk cache, and so is Python's bytecode.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ume_nano

ROOT = Path(__file__).resolve().parents[2]
GALLERY = ROOT / "tools" / "gallery"
# Prints CPU seconds until all is imported, until the model is loaded, and until the vectors are
# there; interpreter included.
_STAGES = r"""
import time
{imports}
stages = [time.process_time()]
{load}
stages.append(time.process_time())
{embed}
stages.append(time.process_time())
import json, re
from pathlib import Path
peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps([*stages, 1024 * int(peak[1])]))
"""
_UME = {
    "imports": "import ume_r1 as ume",
    "embed": 'model.embed(["a dog", ume.Image("tools/gallery/dog.png")])',
}
_SENTENCE_TRANSFORMERS = {
    "imports": "from sentence_transformers import SentenceTransformer",
    "load": "model = SentenceTransformer({directory!r}, device='cpu')",
    "embed": "model.encode(['a dog', 'tools/gallery/dog.png'])",
}
# vLLM has an environment of its own, made by `tools/setup vllm`. One process, not two that import
# everything, and the cache its CPU backend would take half the memory for: the faster way to start.
_VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
_VLLM_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip
_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_VLLM = {
    "vLLM": {
        "imports": "from PIL import Image\nfrom vllm import LLM",
        "load": f"model = LLM({str(ume_nano.path())!r}, runner='pooling', dtype='float32', "
        "enforce_eager=True)",
        "embed": "model.embed(['a dog<disc_emb>', {"
        f"'prompt': '{_IMAGE}<disc_emb>', 'multi_modal_data': "
        "{'image': Image.open('tools/gallery/dog.png').convert('RGB')}}])",
    },
    "ume_core, vLLM engine": _UME | {
        "imports": "import ume_core as ume",
        "load": "model = ume.load('ume-nano', engine='vllm')",
    },
}  # fmt: skip


def measure(rounds: int) -> dict[str, Any]:
    """Run everything; seconds by name, and why a system was not run."""
    ume = [sys.executable, "-m", "ume_r1"]
    with tempfile.TemporaryDirectory() as folder:
        directory, index = str(Path(folder) / "st"), str(Path(folder) / "index")
        _quiet([*ume, "export", "ume-nano", directory, "--format", "sentence-transformers"])
        _quiet([*ume, "index", str(GALLERY), "--to", index])
        libraries = {
            "ume_r1, disc (ONNX Runtime)": _UME | {"load": "model = ume.load('ume-nano')"},
            "ume_r1, torch engine": _UME | {"load": "model = ume.load('ume-nano', engine='torch')"},
            "sentence-transformers": {
                k: v.format(directory=directory) for k, v in _SENTENCE_TRANSFORMERS.items()
            },
        }
        commands = {
            "ume --help": ["--help"],
            "ume search INDEX a dog": ["search", index, "a", "dog"],
            "ume index FOLDER --to INDEX, nothing new": ["index", str(GALLERY), "--to", index],
            "ume embed --text a": ["embed", "--text", "a"],
            "ume embed gone.png": ["embed", "gone.png"],
        }
        found: dict[str, Any] = {"libraries": {}, "commands": {}}
        for name, parts in libraries.items():
            runs = [_stages(_STAGES.format(**parts)) for _ in range(rounds)]
            found["libraries"][name] = _medians(runs)
        for name, arguments in commands.items():
            runs = [_run([*ume, *arguments])[0] for _ in range(rounds)]
            found["commands"][name] = _medians(runs)
    for name, parts in _VLLM.items():
        if _VLLM_PYTHON.exists():
            code = _STAGES.format(**parts)
            runs = [_stages(code, _VLLM_PYTHON, **_VLLM_SETTINGS) for _ in range(rounds)]
            found["libraries"][name] = _medians(runs)
        else:
            found.setdefault("not run", {})[name] = "tools/setup vllm makes its environment"
    return found


def markdown(found: dict[str, Any]) -> str:
    """The report."""
    lines = [
        "# Cold starts",
        "",
        f"`{found['command']}`, {found['date']}, {found['hardware']}; {found['rounds']} rounds, "
        "medians; ume-nano, float32.",
        "CPU seconds in a fresh process, files in the disk cache. "
        + f"Load average when it began: {found['load']:.1f}.",
        "",
        "| until the first text and picture are embedded | imported | loaded | embedded | process, "
        "CPU | process, wall | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in found["libraries"].items():
        stages = " | ".join(f"{run[k]:.2f} s" for k in ("imported", "loaded", "embedded"))
        lines.append(
            f"| {name} | {stages} | {run['cpu']:.2f} s | {run['wall']:.2f} s | "
            f"{run['memory'] / 1e6:,.0f} MB |"
        )
    for name, why in found.get("not run", {}).items():
        lines.append(f"| {name} | not run: {why} | | | | | |")
    lines += ["", "| command | CPU | wall |", "|---|---|---|"]
    for name, run in found["commands"].items():
        lines.append(f"| `{name}` | {run['cpu']:.2f} s | {run['wall']:.2f} s |")
    return "\n".join(lines) + "\n"


def _stages(code: str, python: str | Path = sys.executable, **settings: str) -> dict[str, float]:
    run, said = _run([str(python), "-c", code], **settings)
    stages = json.loads(said.splitlines()[-1])
    return run | dict(zip(("imported", "loaded", "embedded", "memory"), stages, strict=True))


def _run(command: list[str], **settings: str) -> tuple[dict[str, float], str]:
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | settings,
    )  # fmt: skip
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {"wall": time.monotonic() - began, "cpu": used.ru_utime + used.ru_stime}, said


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _quiet(command: list[str]) -> None:
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def load_average() -> float:
    """Processes that wanted a core in the last minute: what else ran."""
    return os.getloadavg()[0]
