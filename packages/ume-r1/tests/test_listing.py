"""A file counts as deleted only on evidence."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ume_core import UmeError
from ume_r1.index.listing import EMPTY, list_folder

ELSEWHERE = Path("/nowhere")


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """Make a directory unreadable; not by rights, which do not bind root."""

    def deny(directory: Path, number: int) -> None:
        scandir = os.scandir

        def fail(path: Any) -> Any:
            if Path(path) == directory:
                raise OSError(number, os.strerror(number))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", fail)

    return deny


def test_a_name_that_a_read_directory_lacks_is_deleted(folder: Path) -> None:
    found = list_folder(folder, ELSEWHERE)
    assert list(found.files) == [f"{d}/{n}" for d in "ab" for n in ("note.txt", "p0.png", "p1.png")]
    for name in ("a/gone.png", "gone.png", "gone/x.png", "gone/deeper/x.png"):
        assert found.unsure(name) is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_what_cannot_be_listed_is_unknown(
    folder: Path, refuse: Callable[[Path, int], None], number: int
) -> None:
    refuse(folder / "b", number)
    found = list_folder(folder, ELSEWHERE)
    for name in ("b/p0.png", "b/deeper/p0.png"):
        unsure = found.unsure(name)
        assert unsure is not None and unsure[0] == "b" and os.strerror(number) in unsure[1]
    assert found.unsure("a/gone.png") is None


def test_an_empty_directory_is_no_evidence(folder: Path) -> None:
    for path in (folder / "b").iterdir():
        path.unlink()
    (folder / "b" / ".stfolder").mkdir()  # hidden: what Syncthing leaves on the real disk
    found = list_folder(folder, ELSEWHERE)
    assert found.unsure("b/p0.png") == ("b", EMPTY)
    assert found.unsure("b/deeper/p0.png") == ("b", EMPTY)


def test_links_to_folders_are_named_and_not_followed(folder: Path) -> None:
    (folder / "round").symlink_to(folder)
    (folder / "b").rename(folder.parent / "moved")
    (folder / "b").symlink_to(folder.parent / "moved")
    found = list_folder(folder, ELSEWHERE)
    assert set(found.unlisted) == {"round", "b"} and len(found.files) == 3
    assert found.unsure("b/p0.png") is not None


def test_a_folder_that_cannot_be_read_at_all_is_an_error(
    folder: Path, refuse: Callable[[Path, int], None]
) -> None:
    refuse(folder, errno.EIO)
    with pytest.raises(UmeError, match="Input/output error"):
        list_folder(folder, ELSEWHERE)
    with pytest.raises(UmeError, match="No such file"):
        list_folder(folder / "gone", ELSEWHERE)


def test_hidden_files_and_the_index_are_passed_over_and_other_kinds_counted(folder: Path) -> None:
    (folder / "index").mkdir()
    (folder / "index" / "x.png").touch()
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.png").touch()
    for name in ("1.PSD", "2.psd", "x.djvu", "README"):
        (folder / name).touch()
    found = list_folder(folder, folder / "index")
    assert len(found.files) == 6
    assert found.unread == {".psd": 2, ".djvu": 1, "no suffix": 1}


def test_an_entry_of_unknown_kind_is_unknown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        """What a file system gives that tells kinds only by `stat`, when that fails."""

        name = "b"
        path = str(folder / "b")

        def is_dir(self, **_: bool) -> bool:
            raise OSError(errno.EIO, "Input/output error")

    class Entries:
        def __enter__(self) -> list[Entry]:
            return [Entry()]

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", lambda path: Entries())
    found = list_folder(folder, ELSEWHERE)
    assert found.unsure("b/p0.png") == ("b", "it cannot be read: Input/output error")
    assert found.unsure("b") == ("b", "it cannot be read: Input/output error")
