"""`AbsTaskRetrieval` classes and a `Benchmark` from the neutral task descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import datasets
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.benchmarks.benchmark import (
    Benchmark,
    BenchmarkAggregation,
    CustomGroup,
    CustomGrouping,
)

from ume_eval.data import Annotations, Entry, Page, TaskData, parse
from ume_eval.mteb_tasks.frames import FrameList
from ume_eval.tasks import (
    DEFAULT_PROTOCOL,
    META_TASKS,
    MODALITIES,
    Protocol,
    Task,
    choose,
    tasks_of,
)

_MAIN_SCORES = {"hit@1": "hit_rate_at_1", "ndcg_linear@5": "ndcg_at_5"}
_LETTERS = {"text": "t", "image": "i", "video": "v"}
# A document id that no corpus has: mteb drops queries without a relevant document, which every
# protocol counts as misses.
NO_ANSWER = "no right answer"


def mteb_name(task: Task, protocol: Protocol) -> str:
    """A task's name in mteb's result files; other protocols are other tasks."""
    return f"MMEB-{protocol}.{task.key}"


def mteb_tasks(
    data: str | Path,
    *,
    protocol: Protocol = DEFAULT_PROTOCOL,
    tasks: Sequence[str] = (),
    annotations: Annotations | None = None,
) -> list[AbsTaskRetrieval]:
    """Tasks for `mteb.evaluate`.

    Args:
        data: directory with media and annotations, as for `ume eval mmeb`.
        protocol: see `ume_eval.tasks.protocols`.
        tasks: names, meta-tasks or modalities; all if empty.
        annotations: how annotations are read, instead of `data` alone.

    Raises:
        InvalidOption: a name fits nothing.
    """
    source = annotations or Annotations(Path(data))
    return [mteb_task(t, source, protocol) for t in choose(tasks_of(protocol), tasks)]


def mteb_task(task: Task, annotations: Annotations, protocol: Protocol) -> AbsTaskRetrieval:
    """One task; its data are read when mteb asks for them."""
    splits = ["test"]

    def load_data(self: Any, num_proc: int | None = None, **_: Any) -> None:  # noqa: ARG001
        if self.data_loaded:
            return
        self.dataset = {"default": {"test": split_data(parse(task, annotations))}}
        self.data_loaded = True

    metadata = TaskMetadata(
        name=mteb_name(task, protocol),
        description=f"{task.name} of MMEB-V2 ({task.meta_task}), protocol {protocol}, "
        f"{task.ranking} ranking.",
        reference="https://arxiv.org/abs/2507.04590",
        type="Retrieval",
        category=cast("Any", _category(task)),
        modalities=cast("Any", _modalities(task)),
        eval_splits=splits,
        eval_langs=["eng-Latn"],
        main_score=_MAIN_SCORES[task.metric],
        dataset={"path": task.source.repo, "revision": task.source.revision or "main"},
        bibtex_citation="",
    )
    name = "Mmeb" + "".join(c for c in f"{protocol}{task.key}" if c.isalnum())
    members = {"metadata": metadata, "load_data": load_data, "__module__": __name__}
    return type(name, (AbsTaskRetrieval,), members)()


def benchmark(
    tasks: Sequence[AbsTaskRetrieval], protocol: Protocol = DEFAULT_PROTOCOL
) -> Benchmark:
    """A benchmark with the published groups: modalities and meta-tasks."""
    table = {mteb_name(t, protocol): t for t in tasks_of(protocol)}

    def grouping(name: str, labels: Sequence[str], attribute: str) -> CustomGrouping:
        groups: list[CustomGroup] = []
        for label in labels:
            members = [t for t in tasks if getattr(table[t.metadata.name], attribute) == label]
            if members:
                groups.append(CustomGroup(label, members))
        return CustomGrouping(name, tuple(groups))

    metas = [m for modality in MODALITIES for m in META_TASKS[modality]]
    aggregations: Any = (  # mteb's enumeration is of strings only from Python 3.11 on
        BenchmarkAggregation.MEAN_TASK,
        grouping("Modality", MODALITIES, "modality"),
        grouping("Meta-task", metas, "meta_task"),
    )
    return Benchmark(
        name=f"MMEB-V2({protocol})",
        tasks=list(tasks),
        description="78 tasks of images, videos and visual documents.",
        reference="https://arxiv.org/abs/2507.04590",
        aggregations=aggregations,
    )


# Parsers whose query or candidate holds more than text: (query, candidate).
_CONTENT: dict[str, tuple[str, str]] = {
    "image_cls": ("it", "t"), "image_qa": ("it", "t"), "image_i2t": ("it", "t"),
    "image_t2i": ("t", "it"), "image_i2i_vg": ("it", "it"),
    "video_classification": ("vt", "t"), "ssv2": ("vt", "t"),
    "videomme": ("vt", "t"), "nextqa": ("vt", "t"), "egoschema": ("vt", "t"),
    "mvbench": ("vt", "t"), "activitynetqa": ("vt", "t"),
    "msrvtt": ("t", "vt"), "msvd": ("t", "vt"), "didemo": ("t", "vt"), "youcook2": ("t", "vt"),
    "vatex": ("t", "vt"), "moment_retrieval": ("vt", "vt"),
    "vidore": ("t", "it"), "visrag": ("t", "it"),
}  # fmt: skip


def _category(task: Task) -> str | None:
    """mteb's category; None where it has none (queries of text, picture or clip)."""
    if task.parser == "momentseeker":
        return None
    query, target = _CONTENT[task.parser]
    if target == "it" and task.target_instruction == "":
        target = "i"  # pages without an instruction
    return f"{query}2{target}"


def _modalities(task: Task) -> list[str]:
    if task.parser == "momentseeker":
        return ["text", "image", "video"]
    letters = set("".join(_CONTENT[task.parser]))
    return [name for name, letter in _LETTERS.items() if letter in letters]


def split_data(data: TaskData) -> dict[str, Any]:
    """mteb's `RetrievalSplitData`: corpus, queries, relevance, and candidate lists if local."""
    ids = [f"c{n}" for n in range(len(data.candidates))]
    top_ranked = None
    if data.task.ranking == "local":
        top_ranked = {
            str(q.entry.key): [ids[n] for n in dict.fromkeys(q.candidates or ())]
            for q in data.queries
        }
    return {
        "corpus": _table(ids, data.candidates),
        "queries": _table(
            [str(q.entry.key) for q in data.queries], [q.entry for q in data.queries]
        ),
        "relevant_docs": {
            str(q.entry.key): {ids[n]: g for n, g in q.relevant.items()} or {NO_ANSWER: 1}
            for q in data.queries
        },
        "top_ranked": top_ranked,
    }


def _table(ids: Sequence[str], entries: Sequence[Entry]) -> datasets.Dataset:
    """A table with the columns that its entries need; media stay on disk until they are read."""
    kinds = {e.media.kind for e in entries if e.media is not None}
    columns: dict[str, Any] = {"id": list(ids)}
    features: dict[str, Any] = {"id": datasets.Value("string")}
    if any(e.text for e in entries):
        columns["text"] = [e.text for e in entries]
        features["text"] = datasets.Value("string")
    if "video" in kinds:
        columns["video"] = [_paths(e) if _is(e, "video") else None for e in entries]
        features["video"] = FrameList()
    pages = _pages(entries)
    if pages is not None:
        table, rows = pages
        picture = table.select_columns(["image"]).select(rows)
        picture = picture.cast_column("image", datasets.Image())
        for name, values in columns.items():
            picture = picture.add_column(name, values)
        return picture
    if "image" in kinds:
        columns["image"] = [_paths(e)[0] if _is(e, "image") else None for e in entries]
        features["image"] = datasets.Image()
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _is(entry: Entry, kind: str) -> bool:
    return entry.media is not None and entry.media.kind == kind


def _paths(entry: Entry) -> list[str]:
    return [] if entry.media is None else [str(f) for f in entry.media.files]


def _pages(entries: Sequence[Entry]) -> tuple[Any, list[int]] | None:
    """The one annotation table that holds all pictures, and their rows in it."""
    files = [e.media.files[0] if e.media is not None else None for e in entries]
    pages = [f for f in files if isinstance(f, Page)]
    if len(pages) < len(entries) or not pages:
        return None
    return pages[0].table, [p.row for p in pages]
