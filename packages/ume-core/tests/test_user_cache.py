"""A cache that is not there, not readable, not writable or damaged costs nothing but its use."""

from __future__ import annotations

import json
import logging
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from ume_core.user_cache import recall, remember

NAME = "facts.json"
FACTS = {"a": "1", "b": "2"}


def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def gone(_: object) -> object:
        raise KeyError("getpwuid(): uid not found: 54321")

    del tmp_path
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", gone)


def no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "below"))


def not_writable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Path, "write_text", refuse)


@pytest.mark.parametrize("hinder", [no_home, no_folder, not_writable])
def test_without_a_place_nothing_is_kept_and_the_log_says_so(
    hinder: Callable[[pytest.MonkeyPatch, Path], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "ume_core.user_cache")
    hinder(monkeypatch, tmp_path)
    remember(NAME, FACTS)
    assert recall(NAME) == {}
    assert caplog.records and {r.levelno for r in caplog.records} == {logging.DEBUG}


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a": 1, "b": "2"}']
)
def test_a_damaged_file_is_not_believed_and_written_again(
    damage: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remember(NAME, FACTS)
    (tmp_path / "ume" / NAME).write_bytes(damage)
    assert recall(NAME) in ({}, {"b": "2"})
    remember(NAME, FACTS)
    assert recall(NAME) == FACTS
    assert [p.name for p in (tmp_path / "ume").iterdir()] == [NAME]


def test_it_is_in_the_users_cache_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for void in ("", "relative/path"):  # as the XDG specification has it
        monkeypatch.setenv("XDG_CACHE_HOME", void)
        remember(NAME, FACTS)
    stored = (tmp_path / ".cache" / "ume" / NAME).read_text("utf-8")
    assert json.loads(stored) == FACTS
