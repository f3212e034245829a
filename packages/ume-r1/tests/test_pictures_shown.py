"""What the command line and the search page show of turned and damaged media."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags
from PIL import Image as PILImage

from ume_core.fetch import Access
from ume_core.items import Image, Video
from ume_r1.cli import main
from ume_r1.index.page import preview


def scene() -> PILImage.Image:
    image = PILImage.new("RGB", (96, 64), "white")
    image.paste((255, 0, 0), (0, 0, 30, 20))
    image.paste((0, 0, 255), (60, 40, 96, 64))
    return image


def shown(url: str) -> PILImage.Image:
    return PILImage.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


def close(image: PILImage.Image, expected: PILImage.Image) -> bool:
    return image.size == expected.size and bool(
        np.abs(np.asarray(image).astype(int) - np.asarray(expected)).mean() < 6
    )


def damaged(path: Path) -> Path:
    with av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(30):
            frame = scene()
            frame.paste((0, 200, 0), (2 * number, 24, 2 * number + 20, 40))
            out.mux(stream.encode(av.VideoFrame.from_image(frame)))
        out.mux(stream.encode())
    with av.open(str(path)) as clip:
        packet = [bytes(p) for p in clip.demux(video=0) if p.size][20]
    data = path.read_bytes()
    path.write_bytes(data.replace(packet, bytes([0xA5]) * len(packet)))
    return path


def test_thumbnails_of_turned_media_are_upright(tmp_path: Path) -> None:
    exif = PILImage.Exif()
    exif[ExifTags.Base.Orientation] = 6
    lying = scene().transpose(PILImage.Transpose.ROTATE_90)
    lying.save(tmp_path / "phone.jpg", quality=97, exif=exif)
    assert close(shown(preview(Image(tmp_path / "phone.jpg"), Access()).still), scene())
    frames = Video([tmp_path / "phone.jpg"] * 2)
    assert close(shown(preview(frames, Access()).still), scene())


@pytest.mark.parametrize("suffix", ["", ".npz", ".jsonl", ".parquet"])
def test_embed_writes_and_says_what_was_damaged(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = damaged(tmp_path / "clip.mp4")
    out = tmp_path / f"x{suffix}"
    where = ["--out", str(out)] if suffix else []
    assert main(["embed", str(clip), "--text", "a dog", *where]) == 0
    said = capsys.readouterr()
    if suffix == ".npz":
        with np.load(out) as stored:
            rows = [json.loads(record) for record in stored["records"]]
    elif suffix == ".parquet":
        table = pq.read_table(out)
        assert str(table.schema.field("warnings").type).startswith("list<")
        assert "string" in str(table.schema.field("warnings").type)
        rows = table.to_pylist()
    else:
        rows = [json.loads(x) for x in (out.read_text() if suffix else said.out).splitlines()]
    (warning,) = rows[0]["warnings"]
    assert "Damage in" in warning and "clip.mp4" in warning and rows[1]["warnings"] == []
    assert rows[0]["status"] == "ok" and warning in said.err
