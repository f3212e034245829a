"""Fixtures with exported models: load them with `-p ume_onnxruntime.testing`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ume-nano's disc encoder as float32 ONNX, made by `ume export` in export's environment."""
    return _export("ume-nano", tmp_path_factory.mktemp("export") / "nano")


@pytest.fixture(scope="session")
def exported_25(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A Qwen2.5-VL checkpoint, whose vision tower has windows, exported."""
    return _export(str(checkpoint("qwen2_5_vl")), tmp_path_factory.mktemp("export25") / "out")


@pytest.fixture(scope="session")
def built(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ume-nano's export with TensorRT engines; only where they can be built."""
    directory = tmp_path_factory.mktemp("tensorrt") / "nano"
    shutil.copytree(exported, directory)
    command = [sys.executable, "-m", "ume_r1", "export", str(directory), "--format", "tensorrt"]
    subprocess.run(command, check=True)
    return directory


def _export(model: str, directory: Path) -> Path:
    command = [sys.executable, "-m", "ume_r1", "export", model, str(directory)]
    subprocess.run([*command, "--format", "onnx"], check=True)
    return directory
