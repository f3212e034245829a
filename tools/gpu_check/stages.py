"""The stages by name, and one of them in the process that was made for it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tools.gpu_check import correctness, disc, environment, gen, training
from tools.gpu_check.findings import Findings
from tools.gpu_check.place import Place
from ume_torch.caches import name_compiler_cache

STAGES: dict[str, Callable[[Place, Findings], None]] = {
    "environment": environment.run,
    "correctness": correctness.run,
    "disc": disc.run,
    "gen": gen.run,
    "training": training.run,
}

# Imported once, before the process of any stage is made; none of it touches a GPU.
name_compiler_cache()  # before transformers is imported
import_module("transformers.models.qwen2_vl.modeling_qwen2_vl")


def run_stage(name: str, place: Place, out: Path, about: dict[str, Any], seconds: float) -> None:
    """Make a stage's checks: findings to `NAME.json`, output to the log, progress to stderr."""
    shown = os.fdopen(os.dup(2), "w", buffering=1)
    with (out / "gpu-check.log").open("a", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        warnings.simplefilter("default")

        def say(line: str) -> None:
            print(f"{name}: {line}", file=log)
            if not line.endswith("..."):
                print(f"{name}: {line}", file=shown)

        findings = Findings(out / f"{name}.json", about, seconds, say)
        STAGES[name](place, findings)
        findings.finish()
