"""What a file becomes as an item."""

from __future__ import annotations

from pathlib import Path

import pytest

from ume_core import Limits, UmeError
from ume_core.items import Image, Text, Video
from ume_core.testing.contract import picture
from ume_r1 import files
from ume_r1.files import (
    UNREAD_SUFFIXES,
    item_from_bytes,
    item_from_file,
    kind_of,
    left_out,
)
from ume_r1.index.listing import list_folder


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a dog", "a dog"),
        (b"\xef\xbb\xbfa dog", "a dog"),
        (b"a\r\ndog\rand\n", "a\ndog\nand\n"),
        ("\u00e9\ufeff".encode(), "\u00e9\ufeff"),
    ],
    ids=["plain", "byte order mark", "line ends", "mark inside"],
)
def test_a_text_is_the_same_however_it_was_saved(data: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(data)
    assert item_from_bytes(data, "text", "x.txt", Limits()).parts == (Text(text),)
    assert item_from_file(tmp_path / "x.txt", Limits()).text == text


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"caf\xe9", "not UTF-8"), (b"", "empty"), (b"x" * 41, "too long a text")],
)
def test_what_is_no_text_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(UmeError, match=message):
        item_from_bytes(data, "text", "x.txt", Limits(text_chars=10))


def test_kinds_are_told_by_the_suffix(tmp_path: Path) -> None:
    names = ("a.JPG", "a.jfif", "a.mp4", "a.md", "a.psd", "a")
    kinds = ["image", "image", "video", "text", None, None]
    assert [kind_of(Path(name)) for name in names] == kinds
    assert isinstance(item_from_bytes(b"x", "video", "x", Limits()).parts[0], Video)
    picture(1).save(tmp_path / "a.jfif", "JPEG")
    assert isinstance(item_from_file(tmp_path / "a.jfif", Limits()).parts[0], Image)


def test_a_kind_is_either_read_or_has_a_fix() -> None:
    read = {suffix for suffix in UNREAD_SUFFIXES if kind_of(Path(f"x{suffix}"))}
    assert read <= {*files.HEIF_SUFFIXES, ".pdf"}  # where the extras are installed
    assert {".heic", ".svg", ".pdf"} <= set(UNREAD_SUFFIXES)


def test_a_phones_pictures_are_indexed_with_pillow_heif_and_else_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kind_of(Path("IMG_1.HEIC")) == "image"
    monkeypatch.setattr(files, "_reads_heif", lambda: False)
    (tmp_path / "IMG_1.HEIC").write_bytes(b"x")
    found = list_folder(tmp_path)
    assert not found.files and found.unread == {".heic": 1}
    lines, missed = left_out(found.unread)
    assert missed and lines == [
        "left out 1 .heic file. Fix: pip install pillow-heif, and run again"
    ]
