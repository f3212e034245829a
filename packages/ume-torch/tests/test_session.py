"""Many callers on one model: every answer is the one `embed` gives, whatever runs beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ume_core
import ume_nano
from ume_core.embedder import Sampling
from ume_core.errors import DeadlineExceeded, EngineUnavailable, LimitExceeded
from ume_core.items import Image, ItemLike, Video
from ume_core.options import LoadOptions
from ume_core.session import Embedded, Session, open_session
from ume_torch.engine import TorchEmbedder
from ume_torch.options import TorchOptions

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def engine() -> TorchEmbedder:
    loaded = ume_core.load("ume-nano", engine="torch", dtype="float32", device="cpu")
    assert isinstance(loaded, TorchEmbedder)
    return loaded


@pytest.fixture
def session(engine: TorchEmbedder) -> Iterator[Session]:
    with open_session(engine) as opened:
        yield opened


def until(true: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def check(found: Embedded, alone: Any, row: int = 0) -> None:
    """Equal to one row of what `embed` returned."""
    assert found.signature == alone.signature
    record = alone.records[row]
    assert (found.record.status, found.record.samples) == (record.status, record.samples)
    assert found.record.prompt_tokens == record.prompt_tokens
    for one, several in ((found.disc, alone.disc), (found.gen_samples, alone.gen_samples)):
        assert (one is None) == (several is None)
        if one is not None:
            np.testing.assert_allclose(one, several[row], atol=TOLERANCE)


def test_answers_under_load_equal_the_offline_ones(
    engine: TorchEmbedder, session: Session, media: Path
) -> None:
    """Modes, budgets, samplings and media mixed, from several threads, in waves."""
    items: list[ItemLike] = [
        "a red apple", Image(media / "image0.png"), [Image(media / "image2.png"), "what is it?"],
        Video(media / "clip.mp4", nframes=4), "a bus and " * 60,
    ]  # fmt: skip
    ways: list[dict[str, Any]] = [
        {"mode": "disc"},
        {"mode": "gen", "max_new_tokens": 5},
        {"mode": "both", "max_new_tokens": 24},
        {"mode": "gen", "max_new_tokens": 12, "sampling": Sampling(n=3, temperature=1.5, seed=7)},
        {"mode": "disc", "instruction": "Find a picture:"},
    ]
    expected = [engine.embed(items, **way) for way in ways]
    found: list[tuple[int, int, Future[Embedded]]] = []

    def client(number: int) -> None:
        rng = np.random.default_rng(number)
        for place in rng.permutation(len(items) * len(ways)):
            item, way = divmod(int(place), len(ways))
            future = session.submit(items[item], **ways[way], scope=str(number))
            found.append((item, way, future))
            if rng.random() < 0.2:
                time.sleep(rng.random() * 0.02)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for item, way, future in found:
        check(future.result(120), expected[way], item)
    assert len(found) == 75


def test_the_pieces_told_are_the_whole_text_and_late_listeners_miss_nothing(
    session: Session,
) -> None:
    told: dict[str, str] = {"first": "", "late": ""}

    def listener(name: str) -> Any:
        def take(sample: int, text: str) -> None:
            assert sample == 0
            told[name] += text

        return take

    how: Any = {"mode": "gen", "max_new_tokens": 48}
    first = session.submit("a red apple", on_token=listener("first"), **how)
    until(lambda: len(told["first"]) > 10)
    late = session.submit("a red apple", on_token=listener("late"), **how)
    text = first.result(60).record.samples[0].text
    assert late.result(60).record.samples[0].text == text
    assert told == {"first": text, "late": text}
    assert session.load().shared == 1


def test_a_caller_that_leaves_frees_its_rows_within_one_step(
    engine: TorchEmbedder, session: Session
) -> None:
    begun = threading.Event()
    sampling = Sampling(n=4, temperature=2.0)
    long = session.submit(
        "words " * 40, mode="gen", sampling=sampling, max_new_tokens=1000,
        on_token=lambda sample, text: begun.set(),
    )  # fmt: skip
    other = session.submit("a dog", mode="gen", max_new_tokens=40)
    assert begun.wait(60)
    assert long.cancel()
    assert session.load().running["gen"] <= 1
    check(other.result(60), engine.embed(["a dog"], mode="gen", max_new_tokens=40))
    until(lambda: session.load().running["gen"] == 0)


def test_disc_does_not_wait_for_gen(session: Session) -> None:
    begun = threading.Event()
    long = session.submit(
        "words", mode="gen", sampling=Sampling(n=2, temperature=9.0), max_new_tokens=1000,
        on_token=lambda sample, text: begun.set(),
    )  # fmt: skip
    assert begun.wait(60)
    assert session.submit("a dog").result(60).disc is not None
    assert not long.done()
    long.cancel()


def test_a_deadline_ends_an_answer_midway(session: Session) -> None:
    long = session.submit(
        "words", mode="gen", sampling=Sampling(n=2, temperature=9.0), max_new_tokens=1000,
        deadline=0.3,
    )  # fmt: skip
    with pytest.raises(DeadlineExceeded, match="deadline passed"):
        long.result(60)
    until(lambda: session.load().running["gen"] == 0)


def test_a_budget_without_room_is_refused_for_its_item_alone(session: Session) -> None:
    too_long = session.submit("a dog", mode="gen", max_new_tokens=10**6)
    good = session.submit("a dog", mode="gen", max_new_tokens=4)
    with pytest.raises(LimitExceeded, match="lower max_new_tokens"):
        too_long.result(60)
    assert good.result(60).gen is not None


def test_a_step_that_fails_takes_down_what_it_computed_and_nothing_later(
    engine: TorchEmbedder, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "prefill", broken)
        for mode in ("gen", "disc"):
            with pytest.raises(EngineUnavailable, match="RuntimeError: boom"):
                session.submit("a dog", mode=mode, max_new_tokens=4).result(60)
    found = session.submit("a dog", mode="gen", max_new_tokens=4).result(60)
    check(found, engine.embed(["a dog"], mode="gen", max_new_tokens=4))


def test_the_gen_cache_serves_sessions_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEmbedder(
        ume_nano.path(), LoadOptions(device="cpu", dtype="float32"),
        TorchOptions(gen_cache=tmp_path / "answers.sqlite"),
    )  # fmt: skip
    alone = engine.embed(["a dog"], mode="gen", max_new_tokens=8)
    with open_session(engine) as session:
        cat = session.submit("a cat", mode="gen", max_new_tokens=8).result(60)
        monkeypatch.setattr(engine.runner, "prefill", None)  # nothing is computed from here on
        check(session.submit("a dog", mode="gen", max_new_tokens=8).result(60), alone)
        kept = session.submit("a cat", mode="gen", max_new_tokens=8).result(60)
    np.testing.assert_array_equal(kept.gen, cat.gen)
