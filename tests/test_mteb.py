"""mteb as an oracle: its metrics on the miniature of MMEB-V2, its own wrapper of UME-R1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
import torch
from PIL import Image

import ume_nano
from mteb_ume import UmeEncoder
from mteb_ume.encoder import ume_r1_2b, ume_r1_7b
from ume_eval.conventions import official
from ume_eval.data import Annotations
from ume_eval.demo import build_demo
from ume_eval.metrics import means
from ume_eval.mteb_tasks import benchmark, mteb_name, mteb_task
from ume_eval.run import Encoder, RunOptions, run_task
from ume_eval.tasks import META_TASKS, Task, tasks_of
from ume_qwen.testing.checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Task], Annotations]:
    folder = tmp_path_factory.mktemp("mteb") / "data"
    return build_demo(folder), Annotations(folder, folder / ".arrow")


def _mteb_scores(encoder: UmeEncoder, tasks: list[Any]) -> dict[str, dict[str, float]]:
    model: Any = encoder
    found = mteb.evaluate(model, tasks, cache=None, show_progress_bar=False)
    return {r.task_name: dict(r.scores["test"][0]) for r in found.task_results}


@pytest.mark.parametrize("mode", ["disc", "gen"])
def test_mteb_scores_the_miniature_as_our_runner_does(
    mode: Any, miniature: tuple[list[Task], Annotations], tmp_path: Path
) -> None:
    tasks, annotations = miniature
    if mode == "gen":  # the whole table is done with disc
        tasks = [t for t in tasks if t.meta_task in ("I-CLS", "V-MR", "VDRv2")]
    encoder = UmeEncoder("ume-nano", mode=mode, max_new_tokens=64, **official()[1])
    theirs = _mteb_scores(encoder, [mteb_task(t, annotations, "v2.1") for t in tasks])
    ours = Encoder(encoder.embedder, tmp_path)
    options = RunOptions(query_mode=mode, target_mode=mode)
    compared = 0
    for task in tasks:
        record = run_task(task, annotations, ours, options)
        if record["ties"]["queries_with_a_tied_positive"]:
            continue  # pytrec_eval ranks ties by id
        scores = theirs[mteb_name(task, "v2.1")]
        assert scores["hit_rate_at_1"] == pytest.approx(record["metrics"]["hit@1"], abs=1e-5)
        assert scores["main_score"] == pytest.approx(record["score"], abs=1e-5), task.name
        assert scores["ndcg_at_5"] == pytest.approx(record["metrics"]["ndcg_linear@5"], abs=1e-5)
        compared += 1
    assert compared >= 0.8 * len(tasks)


def test_the_benchmark_has_the_published_groups(
    miniature: tuple[list[Task], Annotations],
) -> None:
    tasks, annotations = miniature
    found = benchmark([mteb_task(t, annotations, "v2.1") for t in tasks_of()], "v2.1")
    assert len(found.tasks) == 78
    groupings = {g.name: g for g in found.aggregations if hasattr(g, "groups")}
    labels = [m for group in META_TASKS.values() for m in group]
    metas: Any = groupings["Meta-task"]
    assert [g.label for g in metas.groups] == labels
    assert [len(g.tasks) for g in metas.groups] == [10, 10, 12, 4, 5, 5, 5, 3, 10, 4, 6, 4]
    assert len(benchmark([mteb_task(t, annotations, "v2.1") for t in tasks]).tasks) == len(tasks)
    assert means({}, tasks_of())["All"].total == len(found.tasks)


class _Loader(list[Any]):
    """Batches as mteb's data loader gives them."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        super().__init__(batches)
        self.dataset = type("Columns", (), {"features": dict.fromkeys(batches[0])})()


def _rows() -> dict[str, dict[str, list[Any]]]:
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (84, 84, 3), dtype=np.uint8)) for _ in range(3)
    ]
    texts = ["a red dog", "pizza <|image_pad|>", "two words here"]
    return {
        "text": {"text": ["a red dog", "pizza", "two words here"]},
        "image": {"image": pictures},
        "image and text": {"text": texts, "image": pictures},
    }


def _stop_after_gen_emb(wrapper: Any) -> None:
    """One token behind `<gen_emb>`: the wrapper would go on for 8,192, and a random model does."""
    generate, prompt = wrapper.model.generate, 0

    def stop(ids: Any, _: Any, **__: Any) -> Any:
        answers = ids[:, prompt:-1]
        return (answers == wrapper.gen_emb_id).any(dim=1) | (ids.shape[1] - prompt >= 200)

    def bounded(**options: Any) -> Any:
        nonlocal prompt
        prompt = options["input_ids"].shape[1]
        return generate(**options, stopping_criteria=[stop])

    wrapper.model.generate = bounded


@pytest.mark.parametrize("content", list(_rows()))
@pytest.mark.parametrize("kind", ["ume-nano", "random"])
def test_gen_vectors_equal_those_of_mtebs_own_wrapper(
    kind: str, content: str, tmp_path: Path
) -> None:
    """In float32 and row by row: batches change the wrapper's answers (cosine 0.97)."""
    from mteb.models.model_implementations.ume_r1 import UMER1Wrapper

    path = ume_nano.path()
    if kind == "random":
        # In bfloat16, which the wrapper loads; the 7B's generation_config, which samples.
        path = make_checkpoint(tmp_path, "qwen2_vl", gen_bias=3, dtype=torch.bfloat16)
    wrapper = UMER1Wrapper(str(path), device="cpu")
    wrapper.model = wrapper.model.float()
    _stop_after_gen_emb(wrapper)
    rows = _rows()[content]
    single = _Loader([{name: [values[n]] for name, values in rows.items()} for n in range(3)])
    nothing: Any = {"task_metadata": None, "hf_split": "", "hf_subset": ""}
    theirs = wrapper.encode(single, **nothing, show_progress_bar=False)  # pyright: ignore
    for meta in (ume_r1_2b, ume_r1_7b):
        settings: Any = {**(meta.experiment_kwargs or {}), **official()[1], "dtype": "float32"}
        assert meta.loader is not None
        ours: Any = meta.loader(str(path), revision=meta.revision, **settings)
        found = ours.encode(_Loader([rows]), **nothing)
        np.testing.assert_allclose(found, np.asarray(theirs), atol=2e-5)
