"""What was noticed while an item was read stands in its record, in every mode."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from PIL import Image as PILImage

import ume_nano
from ume_core import Image, LoadOptions
from ume_core.signature import Mode
from ume_torch import TorchEmbedder
from ume_torch.options import TorchOptions

MODEL = Path(ume_nano.__file__).parent / "model"


def picture(path: Path, exif: bytes) -> Image:
    PILImage.new("RGB", (56, 56), "red").save(path, lossless=True, exif=exif)
    return Image(path)


@pytest.mark.parametrize("mode", ["disc", "gen", "both"])
def test_the_record_holds_the_warnings_of_its_own_item(mode: Mode, tmp_path: Path) -> None:
    bad = picture(tmp_path / "bad.webp", b"Exif\0\0garbage!")
    good = picture(tmp_path / "good.webp", b"")
    engine = TorchEmbedder(MODEL, LoadOptions(device="cpu"))
    records = engine.embed([good, bad, "x", bad], mode=mode, max_new_tokens=4).records
    assert [len(record.warnings) for record in records] == [0, 1, 0, 1]
    assert "EXIF" in records[1].warnings[0]


def test_the_gen_cache_keeps_no_warnings_of_another_file(tmp_path: Path) -> None:
    """Equal pixels are one question, though one of the files is damaged."""
    bad = picture(tmp_path / "bad.webp", b"Exif\0\0garbage!")
    good = picture(tmp_path / "good.webp", b"")
    cache = TorchOptions(gen_cache=tmp_path / "answers.db")
    engine = TorchEmbedder(MODEL, LoadOptions(device="cpu"), cache)
    for _ in range(2):
        for item, count in ((bad, 1), (good, 0)):
            record = engine.embed([item], mode="gen", max_new_tokens=4).records[0]
            assert len(record.warnings) == count
    with sqlite3.connect(tmp_path / "answers.db") as answers:
        ((stored,),) = answers.execute("SELECT record FROM answers").fetchall()
    assert "EXIF" not in stored
