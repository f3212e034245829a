"""Admission and recovery, without a model."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from ume_core.embedder import Sampling
from ume_qwen.thinking import StopRules
from ume_qwen.tokens import SpecialTokens
from ume_torch.scheduler import Asked, Capacity, Scheduler

PLENTY = Capacity(lambda rows, tokens: rows * tokens, 10**9, 10**9)


RULES = StopRules(SpecialTokens(disc=6, gen=7, image=10, video=11, end=8, pad=9), 4)


def asked(number: int, length: int, samples: int = 1) -> Asked:
    prompt: Any = SimpleNamespace(ids=range(length))
    return Asked(number, prompt, RULES, Sampling(n=samples) if samples > 1 else None)


def prompts(*lengths: int, samples: int = 1) -> Iterator[Asked]:
    return (asked(n, length, samples) for n, length in enumerate(lengths))


def taken(entries: Any) -> list[tuple[int, list[int]]]:
    return [(e.number, e.samples) for e in entries]


def test_prompts_start_in_order_up_to_the_rows() -> None:
    scheduler = Scheduler(prompts(5, 5, 5, samples=2), 4)
    assert taken(scheduler.admit(0, 0, PLENTY)) == [(0, [0, 1]), (1, [0, 1])]
    assert sorted(scheduler.running) == [0, 1] and not scheduler.exhausted
    assert not scheduler.has_room(4) and scheduler.has_room(3)
    assert taken(scheduler.admit(2, 9, PLENTY)) == [(2, [0, 1])]
    assert scheduler.exhausted


def test_the_source_is_read_only_as_prompts_are_taken() -> None:
    read: list[int] = []

    def source() -> Any:
        for n in range(9):
            read.append(n)
            yield asked(n, 5)

    scheduler = Scheduler(source(), 2)
    scheduler.admit(0, 0, PLENTY)
    assert read == [0, 1, 2]


def test_a_prefill_and_the_keys_and_values_are_bounded_but_one_prompt_always_starts() -> None:
    small = Capacity(lambda rows, tokens: rows * tokens, 30, 12)
    scheduler = Scheduler(prompts(5, 5, 5, 40), 8)
    assert taken(scheduler.admit(0, 0, small)) == [(0, [0]), (1, [0])]  # 12 tokens of prefill
    assert taken(scheduler.admit(2, 9, small)) == [(2, [0])]  # 3 rows of 10 tokens are 30
    assert taken(scheduler.admit(3, 9, small)) == []
    assert taken(scheduler.admit(0, 0, small)) == [(3, [0])]


def test_samples_beyond_the_rows_start_in_parts() -> None:
    scheduler = Scheduler(prompts(5, samples=5), 5)
    first = scheduler.admit(0, 0, PLENTY)
    assert scheduler.prefill_failed(first, 0) is None and scheduler.rows == 2
    assert taken(scheduler.admit(0, 0, PLENTY)) == [(0, [0, 1])]
    assert taken(scheduler.waiting) == [(0, [2, 3, 4])]


def test_a_failed_prefill_lowers_the_bound_it_ran_into() -> None:
    scheduler = Scheduler(prompts(5, 5, 5, 5), 4)
    entries = scheduler.admit(0, 0, PLENTY)
    scheduler.prefill_failed(entries, 0)
    assert scheduler.prompts == 2 and taken(scheduler.waiting) == [(n, [0]) for n in range(4)]
    scheduler.admit(0, 0, PLENTY)
    scheduler.started()
    (beside,) = scheduler.admit(2, 9, PLENTY)[:1]
    scheduler.prefill_failed([beside], 2)
    assert scheduler.rows_for_now == 2 and not scheduler.has_room(2)
    scheduler.idle()
    assert scheduler.prompts == scheduler.rows_for_now == scheduler.rows == 4


def test_a_failed_step_starts_its_rows_again_half_as_many_together() -> None:
    scheduler = Scheduler(prompts(5, 5, samples=2), 4)
    scheduler.admit(0, 0, PLENTY)
    assert scheduler.step_failed([(0, 0), (0, 1), (1, 1)]) is None
    assert scheduler.rows == 1
    assert sorted(taken(scheduler.waiting)) == [(0, [0, 1]), (1, [1])]


def test_a_prompt_that_fails_alone_twice_is_given_up_with_what_waits_of_it() -> None:
    scheduler = Scheduler(prompts(5, 7), 1)
    assert scheduler.prefill_failed(scheduler.admit(0, 0, PLENTY), 0) is None
    impossible = scheduler.prefill_failed(scheduler.admit(0, 0, PLENTY), 0)
    assert impossible is not None and len(impossible.ids) == 5
    assert taken(scheduler.admit(0, 0, PLENTY)) == [(1, [0])]
    assert scheduler.step_failed([(1, 0)]) is None
    scheduler.admit(0, 0, PLENTY)
    gone = scheduler.step_failed([(1, 0)])
    assert gone is not None and len(gone.ids) == 7 and scheduler.exhausted


def test_a_source_may_have_nothing_yet_and_more_later() -> None:
    later: list[Asked | None] = [None, asked(0, 5), None]
    scheduler = Scheduler(iter(later), 4)
    assert scheduler.admit(0, 0, PLENTY) == [] and not scheduler.exhausted
    assert taken(scheduler.admit(0, 0, PLENTY)) == [(0, [0])]
    assert scheduler.exhausted


def test_a_cancelled_prompt_neither_waits_nor_runs() -> None:
    scheduler = Scheduler(prompts(5, 5, samples=3), 2)
    assert taken(scheduler.admit(0, 0, PLENTY)) == [(0, [0, 1])]
    assert taken(scheduler.waiting) == [(0, [2])]
    scheduler.cancel(0)
    assert not scheduler.waiting and not scheduler.running
    assert taken(scheduler.admit(0, 0, PLENTY)) == [(1, [0, 1])]
