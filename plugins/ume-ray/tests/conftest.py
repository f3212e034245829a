"""One Ray cluster on this machine for all tests, and an engine made for being killed."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest

import ume_core
from ume_core.plugins import registry
from ume_r1.cli import main
from ume_r1.testing import Bucket, environment, serving_s3

_ENGINE = '''
"""Hashes texts; says what it does in files, and dies when it is told to."""
import hashlib, os, signal, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from ume_core import EmbeddingResult, Record, Signature
from ume_core.hookspecs import BackendSpec, hookimpl

def log(place, name, line):
    with (Path(place) / name).open("a") as file:
        file.write(line + "\\n")

@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        delay: seconds an item takes.
    """
    delay: float = 0.0

class Frail:
    name, modes, dimensions = "frail", frozenset({"disc"}), 16
    def __init__(self, model, options, own):
        self.place, self.delay = Path(model).parent, own.delay
        if not Path(model).exists():
            raise OSError("no file " + str(model))
        log(self.place, "pids", str(os.getpid()))
    def signature(self, mode):
        return Signature("frail", "1", mode, "one-line", "plain", "given", "utils-0.0.11", 0, 0, 0,
                         "float32", 16)
    def embed(self, items, *, mode="disc", on_error="raise", **others):
        disc, records = np.full((len(items), 16), np.nan, np.float32), []
        for row, item in enumerate(items):
            time.sleep(self.delay)
            if "kill" in item.text:
                os.kill(os.getpid(), signal.SIGKILL)
            if "bad" in item.text:
                records.append(Record("failed", "it is bad. Fix: be good"))
                continue
            log(self.place, "embedded", item.text.strip())
            seed = int.from_bytes(hashlib.sha256(item.text.encode()).digest()[:8], "big")
            vector = np.random.default_rng(seed).standard_normal(16)
            disc[row] = vector / np.linalg.norm(vector)
            records.append(Record("ok"))
        return EmbeddingResult(tuple(records), self.signature(mode), disc=disc)

def can_load(model, device):
    return None if str(model).endswith(".frail") else "loads files that end in .frail"

@hookimpl
def ume_backends():
    return [BackendSpec("frail", frozenset({"disc"}), "frail:Frail", "hashes texts",
                        can_load="frail:can_load", options="frail:Options", priority=99)]
'''


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """The engine, installed where this process and all that it starts find it."""
    place = tmp_path_factory.mktemp("plugin")
    (place / "frail.py").write_text(_ENGINE)
    about = place / "frail-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: frail\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[ume]\nfrail = frail\n")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(place), before)))
    sys.path.insert(0, str(place))
    registry.cache_clear()
    yield place
    sys.path.remove(str(place))
    registry.cache_clear()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def s3() -> Generator[str]:
    """An S3 server that this process, and all that it starts, takes for Amazon's."""
    with serving_s3() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(address).items():
            patch.setenv(name, value)
        yield address


@pytest.fixture
def bucket(s3: str) -> Bucket:
    return Bucket.at(s3)


@pytest.fixture(scope="session")
def cluster(plugin: Path, s3: str) -> Generator[str]:
    """Its address. Two workers of one CPU fit, and one CPU is left for reading."""
    import ray
    from ray.data import DataContext

    assert plugin and s3
    # Nobody's desktop: workers need not give way to others, as Ray lets them.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    ray.init(
        "local", num_cpus=3, include_dashboard=False, object_store_memory=128 * 2**20,
        log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


class Frail:
    """A model of the engine, and what its processes said of themselves."""

    def __init__(self, place: Path) -> None:
        self.place, self.path = place, place / "m.frail"
        self.path.write_text("")

    def lines(self, name: str) -> list[str]:
        path = self.place / name
        return path.read_text().splitlines() if path.exists() else []

    def vectors(self, texts: list[str]) -> np.ndarray:
        """As one process computes them."""
        found = ume_core.load(self.path, engine="frail").embed([ume_core.as_item(t) for t in texts])
        assert found.disc is not None
        return found.disc


@pytest.fixture
def frail(tmp_path: Path, plugin: Path) -> Frail:
    assert plugin
    (tmp_path / "model").mkdir()
    return Frail(tmp_path / "model")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command; returns its status and what it wrote to standard output and error."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        status = main([str(a) for a in arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call
