"""A session for an engine that has none of its own."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np
import pytest

from ume_core.embedder import Sampling
from ume_core.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    InvalidItem,
    InvalidOption,
    MediaError,
    ModeNotSupported,
)
from ume_core.items import Image
from ume_core.results import EmbeddingResult
from ume_core.session import Embedded, open_session
from ume_core.testing import FakeEmbedder


class Gated(FakeEmbedder):
    """Computes when it is let, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[Any]] = []
        self.gate, self.entered = threading.Event(), threading.Event()
        self.broken = False

    def embed(self, items: Any, **how: Any) -> EmbeddingResult:
        self.calls.append([item.text for item in items])
        self.entered.set()
        assert self.gate.wait(20)
        if self.broken and any("poison" in item.text for item in items):
            raise RuntimeError("boom")
        return super().embed(items, **how)


@pytest.fixture
def engine() -> Gated:
    return Gated()


def settled(session: Any, waiting: int) -> None:
    """Wait until that many items are read and wait for the engine."""
    until = time.monotonic() + 20
    while session.load().waiting["disc"] != waiting or session.load().reading:
        assert time.monotonic() < until
        time.sleep(0.002)


def vector(future: Future[Embedded]) -> Any:
    return future.result(20).disc


def test_what_waits_is_computed_together_and_equals_embed(engine: Gated) -> None:
    with open_session(engine) as session:
        first = session.submit("first")
        assert engine.entered.wait(20)
        futures = [session.submit(f"text {n}") for n in range(5)]
        settled(session, 5)
        engine.gate.set()
        vectors = [vector(f) for f in (first, *futures)]
    assert engine.calls == [["first"], [f"text {n}" for n in range(5)]]
    alone = FakeEmbedder().embed(["first", *(f"text {n}" for n in range(5))])
    np.testing.assert_array_equal(vectors, alone.disc)


def test_equal_items_in_flight_share_one_computation_within_a_scope(engine: Gated) -> None:
    with open_session(engine) as session:
        blocker = session.submit("blocker")
        assert engine.entered.wait(20)
        same = [session.submit("same") for _ in range(4)]
        other = session.submit("same", scope="another client")
        told = session.submit("same", instruction="Find:")
        settled(session, 3)
        same[0].cancel()  # one caller's leaving does not take the others' answer
        engine.gate.set()
        vectors = [vector(f) for f in (*same[1:], other)]
        assert np.ptp(vectors, axis=0).max() == 0
        assert np.abs(vector(told) - vectors[0]).max() > 0.01
        assert session.load().shared == 3
        vector(blocker)
    assert sorted(engine.calls[1]) == ["same"] * 3


def test_queries_pass_bulk_and_bulk_is_not_starved(engine: Gated) -> None:
    with open_session(engine) as session:
        session.submit("blocker")
        assert engine.entered.wait(20)
        bulk = [session.submit(f"bulk {n}", lane="bulk") for n in range(3)]
        queries = [session.submit(f"query {n}", lane="query") for n in range(40)]
        settled(session, 43)
        engine.gate.set()
        for future in (*bulk, *queries):
            vector(future)
    order = [text for call in engine.calls[1:] for text in call]
    assert order == [*(f"query {n}" for n in range(40)), *(f"bulk {n}" for n in range(3))]


def test_bulk_that_waited_long_goes_before_newer_queries(engine: Gated) -> None:
    with open_session(engine, bulk_later=0.05) as session:
        session.submit("blocker")
        assert engine.entered.wait(20)
        old = session.submit("old bulk", lane="bulk")
        time.sleep(0.1)
        new = session.submit("new query")
        settled(session, 2)
        engine.gate.set()
        assert vector(old) is not None and vector(new) is not None
    assert engine.calls[1] == ["old bulk", "new query"]


def test_a_cancelled_item_is_never_computed(engine: Gated) -> None:
    with open_session(engine) as session:
        session.submit("blocker")
        assert engine.entered.wait(20)
        gone, kept = session.submit("gone"), session.submit("kept")
        assert gone.cancel()
        settled(session, 1)
        engine.gate.set()
        vector(kept)
        with pytest.raises(CancelledError):
            gone.result(1)
    assert engine.calls == [["blocker"], ["kept"]]


def test_a_deadline_that_passes_is_said_and_nothing_is_computed(engine: Gated) -> None:
    with open_session(engine) as session:
        session.submit("blocker")
        assert engine.entered.wait(20)
        late, kept = session.submit("late", deadline=0.02), session.submit("kept", deadline=60)
        settled(session, 2)
        time.sleep(0.05)
        engine.gate.set()
        with pytest.raises(DeadlineExceeded, match=r"before its turn came.*later deadline"):
            late.result(20)
        vector(kept)
    assert engine.calls == [["blocker"], ["kept"]]


def test_a_fault_of_the_engine_fails_the_item_that_causes_it_alone(engine: Gated) -> None:
    engine.broken = True
    with open_session(engine) as session:
        session.submit("blocker")
        assert engine.entered.wait(20)
        futures = [session.submit(text) for text in ("a", "poison", "b")]
        settled(session, 3)
        engine.gate.set()
        with pytest.raises(EngineUnavailable, match="RuntimeError: boom"):
            futures[1].result(20)
        assert vector(futures[0]) is not None and vector(futures[2]) is not None


def test_bad_items_and_options_are_refused_with_their_own_error(engine: Gated) -> None:
    engine.gate.set()
    wrong: Any = "slow"
    with open_session(engine) as session:
        with pytest.raises(MediaError):
            session.submit(Image(b"no picture")).result(20)
        with pytest.raises(InvalidItem):
            session.submit("")
        with pytest.raises(InvalidOption, match="sampling"):
            session.submit("a", sampling=Sampling())
        with pytest.raises(InvalidOption, match="lane"):
            session.submit("a", lane=wrong)
        with pytest.raises(InvalidOption, match="deadline"):
            session.submit("a", deadline=0)
        with pytest.raises(InvalidOption, match="max_new_tokens"):
            session.submit("a", mode="gen", max_new_tokens=0)
    with pytest.raises(EngineUnavailable, match="closed"):
        session.submit("a")
    with pytest.raises(ModeNotSupported):
        open_session(FakeEmbedder(modes=frozenset({"disc"}))).submit("a", mode="gen")


def test_closing_drains_or_fails_what_waits(engine: Gated) -> None:
    session = open_session(engine)
    future = session.submit("drained")
    engine.gate.set()
    session.close()
    assert future.done() and vector(future) is not None

    engine.gate.clear()
    session = open_session(engine)
    running = session.submit("running")
    engine.entered.clear()
    waiting = session.submit("waiting")
    threading.Timer(0.05, engine.gate.set).start()
    session.close(drain=False)
    for future in (running, waiting):
        with pytest.raises(EngineUnavailable, match="closed"):
            future.result(1)


def test_gen_says_its_text_and_every_sample_has_its_vector(engine: Gated) -> None:
    engine.gate.set()
    said: list[tuple[int, str]] = []
    sampling = Sampling(n=2, seed=3)
    with open_session(engine) as session:
        found = session.submit(
            "a", mode="both", sampling=sampling, on_token=lambda n, text: said.append((n, text))
        ).result(20)
    assert said == [(n, s.text) for n, s in enumerate(found.record.samples)]
    alone = FakeEmbedder().embed(["a"], mode="both", sampling=sampling)
    assert alone.gen_samples is not None and found.gen is not None
    np.testing.assert_array_equal(found.gen_samples, alone.gen_samples[0])
