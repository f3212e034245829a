"""Errors of the `ume` command: each names a fix that suits it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from PIL import Image as PILImage

from ume_r1 import cli
from ume_r1.cli import main

ERRNOS = {
    errno.ENOSPC: "free space",
    errno.EROFS: "not read-only",
    errno.EACCES: "permissions",
    errno.ENOENT: "check the path",
    errno.EMFILE: "ulimit -n",
    errno.EIO: "check the disk",
    errno.EINTR: "check the path and the disk",
}


@pytest.mark.parametrize("number", ERRNOS)
def test_errors_of_the_system_are_answered_by_what_they_are(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: list[str]) -> int:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr(cli, "_run", fail)
    assert main(["models"]) == 2
    said = capsys.readouterr().err
    assert "some/file" in said and ERRNOS[number] in said.partition("Fix: ")[2]


def test_a_full_disk_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    assert main(["embed", "--text", "x", "--out", "/dev/full/x.npz"]) == 2
    assert "Fix: " in capsys.readouterr().err


def test_the_fix_for_an_unknown_suffix_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "photo.what"
    PILImage.new("RGB", (56, 56), "red").save(path, "PNG")
    assert main(["embed", str(path)]) == 1
    assert "give it the suffix of its kind, such as .png" in capsys.readouterr().err
    assert main(["embed", str(path.rename(path.with_suffix(".png")))]) == 0
