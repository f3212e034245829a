"""The 24 scored tasks of visual documents: global ranking, linear NDCG@5.

Source: TIGER-AI-Lab/VLM2Vec @6e1e1d4 `experiments/public/eval/visdoc.yaml` (27 entries, of which
the three English-only ViDoRe v2 sets are not scored) and `src/constant/dataset_hf_path.py`.
Revisions: those mteb 2.26.24 pins for the same data sets. Row counts: mteb's statistics where it
has the set.
"""

from __future__ import annotations

from ume_eval.tasks.task import Source, Task

QUERY = "Find a document image that matches the given query:"
PAGE = "Understand the content of the provided document image."
NOT_SCORED = (
    "ViDoRe_biomedical_lectures_v2",
    "ViDoRe_economics_reports_v2",
    "ViDoRe_esg_reports_v2",
)


def _task(
    name: str,
    meta_task: str,
    source: Source,
    queries: int,
    pages: int | None,
    *,
    parser: str = "vidore",
    folder: str | None = None,
    graded: bool = False,
    leaderboard_name: str = "",
) -> Task:
    folder = folder or name
    # As unpacked by upstream, Qwen3-VL-Embedding and PLUME, in this order.
    roots = tuple(
        f"{root}/{folder}"
        for root in ("visdoc-tasks", "visdoc-tasks/images", "visdoc-tasks/visdoc-tasks")
    )
    return Task(
        name, "visdoc", meta_task, parser, "global", source, queries, pages, QUERY, PAGE, roots,
        graded=graded, leaderboard_name=leaderboard_name,
    )  # fmt: skip


def _v1(name: str, suffix: str, queries: int, pages: int) -> Task:
    return _task(f"ViDoRe_{name}", "VDRv1", Source(f"vidore/{name}_{suffix}"), queries, pages)


def _v2(name: str, queries: int, pages: int, revision: str, *, graded: bool = False) -> Task:
    """ViDoRe v2 in all its languages; its folders lack the prefix."""
    task = name if graded else f"{name}_multilingual"
    return _task(
        f"ViDoRe_{task}", "VDRv2", Source(f"vidore/{name}", revision=revision), queries, pages,
        folder=task, graded=graded,
    )  # fmt: skip


def _visrag(name: str, queries: int, pages: int) -> Task:
    source = Source(f"openbmb/VisRAG-Ret-Test-{name}", split="train")
    return _task(f"VisRAG_{name}", "VisRAG", source, queries, pages, parser="visrag")


_LONG_DOC = Source("VLM2Vec/MMLongBench-doc", revision="1c2ee8f611a6c552d4bd90daca3a92d7a55ff806")

VISDOC_TASKS: tuple[Task, ...] = (
    _v1("arxivqa", "test_subsampled_beir", 500, 500),
    _v1("docvqa", "test_subsampled_beir", 451, 500),
    _v1("infovqa", "test_subsampled_beir", 494, 500),
    _v1("tabfquad", "test_subsampled_beir", 280, 70),
    _v1("tatdqa", "test_beir", 1646, 277),
    _v1("shiftproject", "test_beir", 100, 1000),
    _v1("syntheticDocQA_artificial_intelligence", "test_beir", 100, 968),
    _v1("syntheticDocQA_energy", "test_beir", 100, 977),
    _v1("syntheticDocQA_government_reports", "test_beir", 100, 972),
    _v1("syntheticDocQA_healthcare_industry", "test_beir", 100, 965),
    _v2(
        "esg_reports_human_labeled_v2", 52, 1538, "6d467dedb09a75144ede1421747e47cf036857dd",
        graded=True,
    ),
    _v2("biomedical_lectures_v2", 640, 1016, "a29202f0da409034d651614d87cd8938d254e2ea"),
    _v2("economics_reports_v2", 232, 452, "b3e3a04b07fbbaffe79be49dabf92f691fbca252"),
    _v2("esg_reports_v2", 228, 1538, "0542c0d03da0ec1c8cbc517c8d78e7e95c75d3d3"),
    _visrag("ArxivQA", 816, 8066),
    _visrag("ChartQA", 63, 500),
    _visrag("MP-DocVQA", 591, 741),
    _visrag("SlideVQA", 556, 1284),
    _visrag("InfoVQA", 718, 459),
    _visrag("PlotQA", 863, 9593),
    _task(
        "ViDoSeek-page", "OOD", Source("VLM2Vec/ViDoSeek-page-fixed"), 1142, None,
        leaderboard_name="ViDoSeek-page-fixed",
    ),
    _task("ViDoSeek-doc", "OOD", Source("VLM2Vec/ViDoSeek"), 1142, None, graded=True),
    _task(
        "MMLongBench-page", "OOD", Source("VLM2Vec/MMLongBench-page-fixed"), 838, None,
        leaderboard_name="MMLongBench-page-fixed",
    ),
    _task("MMLongBench-doc", "OOD", _LONG_DOC, 838, 6492, graded=True),
)  # fmt: skip
