"""The index over the fake embedder: real files and a real table, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ume_core.options import LoadOptions
from ume_core.testing import FakeEmbedder
from ume_core.testing.contract import picture
from ume_r1.cli import main
from ume_r1.index import Description, Index, options
from ume_r1.testing import Bucket, environment, serving_s3


class Loads(list[dict[str, Any]]):
    """The calls of `load` that were made, by their arguments."""


@pytest.fixture
def model() -> FakeEmbedder:
    return FakeEmbedder(dimensions=32)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    """Every model that an index loads is a fake one; its arguments are noted."""
    calls = Loads()

    def load(model: str = "default", *, engine: str = "auto", **changes: Any) -> FakeEmbedder:
        calls.append({"model": model, "engine": engine, **changes})
        return FakeEmbedder(dimensions=32, options=LoadOptions(**changes))

    monkeypatch.setattr(options, "load", load)
    return calls


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures and a text in each of two folders, a and b."""
    root = tmp_path / "files"
    for number, name in enumerate(("a", "b")):
        (root / name).mkdir(parents=True)
        for extra in range(2):
            picture(2 * number + extra).save(root / name / f"p{extra}.png")
        (root / name / "note.txt").write_text(f"the note of {name}")
    return root


@pytest.fixture
def create(tmp_path: Path, model: FakeEmbedder) -> Callable[..., Index]:
    """Make, or open, the index of a folder."""

    def make(folder: Path, mode: Any = "disc", **changes: Any) -> Index:
        about = Description.of(model, folder, mode, name="fake")
        return Index.create(tmp_path / "index", about, **changes)

    return make


@pytest.fixture
def run(loads: Loads, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command; returns its status and what it wrote to standard output and error."""
    assert loads is not None

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        status = main([str(a) for a in arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A local S3 server's address."""
    with serving_s3() as address:
        yield address


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket, with everything that reads S3 pointed at it."""
    for name, value in environment(s3_server).items():
        monkeypatch.setenv(name, value)
    return Bucket.at(s3_server)
