"""The cache of file times says 'unchanged' only of what cannot have changed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ume_r1.index.seen import NAME, Seen, Stamp

HOUR_NS = 3600 * 10**9


def stamp(age_ns: int, size: int = 3) -> Stamp:
    """Of a file that was last changed that long ago."""
    at = time.time_ns() - age_ns
    return Stamp(size, at, at)


def test_a_file_is_unchanged_if_size_and_times_are(tmp_path: Path) -> None:
    seen, then = Seen(tmp_path), stamp(HOUR_NS)
    seen.put("a", "digest", then)
    seen.write()
    again = Seen(tmp_path)
    assert again.unchanged("a", then) == again.digest("a") == "digest"
    for other in (
        Stamp(4, then.mtime_ns, then.ctime_ns),
        Stamp(3, then.mtime_ns + 1, then.ctime_ns),
        Stamp(3, then.mtime_ns, then.ctime_ns + 1),  # replaced, and its time set back
    ):
        assert again.unchanged("a", other) is None
    assert again.unchanged("b", then) is None


@pytest.mark.parametrize("age_ns", [0, 10**9, -HOUR_NS])
def test_a_file_that_may_change_again_within_a_tick_is_read_again(
    tmp_path: Path, age_ns: int
) -> None:
    seen, now = Seen(tmp_path), stamp(age_ns)
    seen.put("a", "digest", now)
    assert seen.unchanged("a", now) is None and seen.digest("a") == "digest"


def test_nothing_is_written_if_nothing_changed(tmp_path: Path) -> None:
    seen = Seen(tmp_path)
    seen.put("a", "digest", stamp(HOUR_NS))
    seen.write()
    before = (tmp_path / NAME).stat().st_mtime_ns
    again = Seen(tmp_path)
    again.keep_only({"a": ()})
    again.write()
    assert (tmp_path / NAME).stat().st_mtime_ns == before
    again.keep_only({})
    again.write()
    assert list(Seen(tmp_path).digests()) == []


@pytest.mark.parametrize("data", [b"", b"PAR1", b"\0" * 500])
def test_a_damaged_cache_is_an_empty_one(tmp_path: Path, data: bytes) -> None:
    (tmp_path / NAME).write_bytes(data)
    assert list(Seen(tmp_path).digests()) == []
