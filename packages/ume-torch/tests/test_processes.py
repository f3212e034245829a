"""Forks, pickles and loading in threads: what works, and what is said where it cannot."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ume_core
import ume_nano
from ume_core import EngineUnavailable, InvalidOption, LoadOptions, Sampling
from ume_core import forks as core_forks
from ume_torch import TorchEmbedder, forks
from ume_torch.gen_cache import GenCache

CPU = LoadOptions(device="cpu")
# In fresh processes, because a fork takes over what this one did. Prints a line for every case:
# its name and what embedding in the child gave, a number or an error.
FORK = """
import multiprocessing, sys, torch
threads = int(sys.argv[1])
torch.set_num_threads(threads)
import ume_core
model = None
def load():
    return ume_core.load("ume-nano", engine="torch", device="cpu")
def child(answers, anew, one_thread):
    if one_thread:
        torch.set_num_threads(1)
    try:
        used = load() if anew else model
        result = used.embed(["a dog", "a cat"], mode="both", max_new_tokens=3)
        answers.put(float(result.disc[0, 0]))
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")
def ask(case, method="fork", anew=False, one_thread=False):
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    process = context.Process(target=child, args=(answers, anew, one_thread))
    process.start()
    try:
        print(case, answers.get(timeout=120), sep="=", flush=True)
    except Exception:
        print(case, "hangs", sep="=", flush=True)
    process.kill()
if __name__ == "__main__":
    if threads > 1:
        ask("loaded in the child alone", anew=True)
    model = load()
    ask("only loaded before")
    model.embed(["a dog"] * 4)
    ask("used before")
    if threads > 1:
        ask("loaded again", anew=True)
        ask("one thread in the child", one_thread=True)
        ask("one thread in the child, loaded again", anew=True, one_thread=True)
        ask("spawn", "spawn", anew=True)
"""
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def forked(folder: Path, threads: int) -> dict[str, str]:
    """What embedding gives in children of a process with that many threads, by case."""
    script = folder / "fork.py"
    script.write_text(FORK)
    # Waiting threads sleep: children of one machine would spin against each other.
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [sys.executable, str(script), str(threads)],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    lines = [line.partition("=") for line in done.stdout.splitlines()]
    return {case: answer for case, _, answer in lines}


@needs_fork
def test_a_fork_after_computing_with_threads_is_said_and_the_fixes_work(tmp_path: Path) -> None:
    expected = TorchEmbedder(ume_nano.path(), CPU).embed(["a dog"]).disc
    assert expected is not None
    answers = forked(tmp_path, 2)
    for case in ("only loaded before", "used before", "loaded again"):
        message = answers.pop(case)
        assert message.startswith("EngineUnavailable: this process was forked after"), message
        for fix in ("get_context('spawn')", "only in the children", "torch.set_num_threads(1)"):
            assert fix in message
    assert len(answers) == 4
    for case, answer in answers.items():
        assert float(answer) == pytest.approx(float(expected[0, 0]), abs=1e-5), case


@needs_fork
def test_a_fork_with_one_thread_goes_on_working(tmp_path: Path) -> None:
    answers = forked(tmp_path, 1)
    assert set(answers) == {"only loaded before", "used before"}
    one, other = (float(answer) for answer in answers.values())
    assert one == pytest.approx(other, abs=1e-5)


@needs_fork
def test_a_fork_in_the_middle_of_a_call_of_another_thread_is_said() -> None:
    model = TorchEmbedder(ume_nano.path(), CPU)
    held, go_on = threading.Event(), threading.Event()

    def wait(*_: int) -> None:
        held.set()
        go_on.wait(30)

    def child(answers: Any) -> None:
        torch.set_num_threads(1)
        try:
            model.embed(["x"])
            answers.put("nothing")
        except EngineUnavailable as error:
            answers.put(str(error))

    def ask() -> str:
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        process = context.Process(target=child, args=(answers,))
        process.start()
        answer = answers.get()
        process.join(10)
        return answer

    caller = threading.Thread(target=lambda: model.embed(["a dog"], progress=wait))
    caller.start()
    try:
        assert held.wait(30)
        assert "forked while its parent was embedding" in ask()
    finally:
        go_on.set()
        caller.join()
    assert ask() == "nothing"  # the fix: no call runs
    assert model.embed(["x"]).records[0].status == "ok"  # nor is the parent harmed


def test_cuda_does_not_survive_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_process", forks._Process(cuda=True))
    forks.after_fork()
    with pytest.raises(EngineUnavailable, match=r"used the GPU.*get_context\('spawn'\)"):
        forks.check_process("cuda:0")
    forks.check_process("cpu")


def test_calls_are_counted_also_when_they_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_forks, "_process", core_forks._Process())
    with pytest.raises(KeyboardInterrupt), core_forks.call_in_progress():
        raise KeyboardInterrupt
    core_forks.after_fork()
    with core_forks.call_in_progress():
        core_forks.after_fork()
    with pytest.raises(EngineUnavailable), core_forks.call_in_progress():
        raise AssertionError


@pytest.mark.parametrize("make", [pickle.dumps, copy.copy, copy.deepcopy])
def test_pickling_a_model_says_how_to_load_it_elsewhere(make: Any) -> None:
    model = TorchEmbedder(ume_nano.path(), CPU)
    with pytest.raises(InvalidOption, match="cannot be pickled") as error:
        make(model)
    code = error.value.fix.partition(": ")[2]
    again = eval(code, {"ume_core": ume_core})
    for one, other in ((model, again),):
        assert one.signature("disc").weights == other.signature("disc").weights


def test_models_of_different_dtypes_load_and_serve_in_threads() -> None:
    expected = TorchEmbedder(ume_nano.path(), CPU).embed(["a dog"]).disc
    assert expected is not None
    dtypes = ["float32", "bfloat16"] * 3

    def load(dtype: str) -> tuple[str, Any]:
        model = TorchEmbedder(ume_nano.path(), LoadOptions(device="cpu", dtype=dtype))
        return dtype, model.embed(["a dog"]).disc

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(load, dtypes))
    assert torch.get_default_dtype() == torch.float32
    for dtype, vectors in found:
        np.testing.assert_allclose(vectors, expected, atol=1e-5 if dtype == "float32" else 0.05)


def test_draws_do_not_depend_on_the_processs_default_dtype() -> None:
    """Which changes while another thread loads a model."""
    model = TorchEmbedder(ume_nano.path(), CPU)
    options: dict[str, Any] = {"mode": "gen", "max_new_tokens": 6, "sampling": Sampling(n=3)}
    expected = model.embed(["a dog"], **options)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = model.embed(["a dog"], **options)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.records == expected.records
    assert found.gen_samples is not None and expected.gen_samples is not None
    np.testing.assert_allclose(found.gen_samples, expected.gen_samples, atol=1e-5)


def test_the_lm_head_is_packed_once_for_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from ume_torch import runner

    made: list[Any] = []

    def slowly(linear: Any) -> Any:
        made.append(linear)
        threading.Event().wait(0.2)
        return linear

    monkeypatch.setattr(runner, "packed", slowly)
    model = TorchEmbedder(ume_nano.path(), CPU)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: model.embed(["x"], mode="gen", max_new_tokens=1), range(4)))
    assert len(made) == 1


@needs_fork
def test_a_forked_process_opens_the_gen_cache_anew(tmp_path: Path) -> None:
    cache = GenCache(tmp_path / "answers")
    mine = cache.connection
    assert cache.connection is mine

    def child(answers: Any) -> None:
        answers.put(cache.connection is mine)
        cache.connection.execute("SELECT count(*) FROM answers").fetchone()
        answers.put(cache.process == os.getpid())

    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=child, args=(answers,))
    process.start()
    assert answers.get() is False
    assert answers.get() is True
    process.join(10)
