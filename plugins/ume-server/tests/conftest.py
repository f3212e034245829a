"""A real server on loopback, shared by the tests of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ume_core
from ume_core.embedder import Embedder
from ume_server.settings import SERVER_LIMITS, SERVER_POLICY, Settings
from ume_server.testing import KEY, MODEL, Running, running


@pytest.fixture(scope="session")
def model() -> Embedder:
    return ume_core.load(
        MODEL, engine="torch", device="cpu", dtype="float32", policy=SERVER_POLICY,
        limits=SERVER_LIMITS,
    )  # fmt: skip


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings(keys=("another-key-of-the-tests", KEY), hosts=("localhost",))


@pytest.fixture(scope="session")
def server(model: Embedder, settings: Settings) -> Iterator[Running]:
    """One server for all tests that do not change it."""
    with running(model, settings) as found:
        yield found


Start = Callable[..., Running]


@pytest.fixture
def start(model: Embedder, settings: Settings) -> Iterator[Start]:
    """Servers with other settings."""
    with ExitStack() as stack:

        def begin(model: Embedder = model, add: Any = None, **changes: Any) -> Running:
            return stack.enter_context(running(model, replace(settings, **changes), add))

        yield begin


@pytest.fixture(scope="session")
def gallery() -> Path:
    return Path(__file__).resolve().parents[3] / "tools" / "gallery"
