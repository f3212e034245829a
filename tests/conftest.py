"""Fixtures shared by the cross-member tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from tests.checkpoints import make_checkpoint

# (architecture, case, mode) -> largest difference from the published recipe
PARITY: dict[tuple[str, str, str], float] = {}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Random checkpoints by architecture, made once."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            directory = tmp_path_factory.mktemp(kind)
            made[kind] = make_checkpoint(directory, kind, gen_bias=3)
        return made[kind]

    return make


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ume-nano's disc encoder as float32 ONNX, made by `ume export` in export's environment."""
    from ume_r1.cli import main

    directory = tmp_path_factory.mktemp("export") / "nano"
    assert main(["export", "ume-nano", str(directory)]) == 0
    return directory


@pytest.fixture(scope="session")
def built(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ume-nano's export with TensorRT engines; only where they can be built."""
    from ume_r1.cli import main

    directory = tmp_path_factory.mktemp("tensorrt") / "nano"
    shutil.copytree(exported, directory)
    assert main(["export", str(directory), "--engine", "tensorrt"]) == 0
    return directory


@pytest.fixture(scope="session")
def exported_25(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A Qwen2.5-VL checkpoint, whose vision tower has windows, exported."""
    from ume_r1.cli import main

    directory = tmp_path_factory.mktemp("export25") / "out"
    assert main(["export", str(checkpoint("qwen2_5_vl")), str(directory)]) == 0
    return directory


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures of different sizes, frames and an mp4."""
    folder = tmp_path_factory.mktemp("media")
    for number, (width, height) in enumerate([(112, 84), (57, 140), (300, 211), (84, 84)]):
        _picture(number, width, height).save(folder / f"image{number}.png")
    for number in range(6):
        _picture(20 + number, 150, 112).save(folder / f"frame{number}.png")
    _picture(60, 1800, 1500).save(folder / "large.png")  # 2.7 megapixels
    _picture(61, 30, 22).save(folder / "small.png")
    write_clip(folder / "clip.mp4", [_picture(40 + i // 6, 200, 128) for i in range(32)])
    return folder


def write_clip(path: Path, frames: list[PILImage.Image], fps: int = 8) -> None:
    """Encode frames as H.264."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def _picture(seed: int, width: int, height: int) -> PILImage.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return PILImage.fromarray(noise).resize((width, height), PILImage.Resampling.BICUBIC)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the parity table."""
    if not PARITY:
        return
    terminalreporter.section("largest difference from the published recipe, float32")
    for (kind, case, mode), difference in sorted(PARITY.items()):
        terminalreporter.write_line(f"{kind:11} {case:16} {mode:5} {difference:.1e}")
