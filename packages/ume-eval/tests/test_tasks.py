"""The table against the counts of the specification, and upstream's configuration files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from ume_core.errors import InvalidOption
from ume_eval.data.parse import PARSERS
from ume_eval.tasks import META_TASKS, PROTOCOLS, Protocol, choose, instruction_digest, tasks_of
from ume_eval.tasks.configurations import read_configurations


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_78_tasks_in_the_published_groups(protocol: Protocol) -> None:
    tasks = tasks_of(protocol)
    counts = Counter(t.meta_task for t in tasks)
    assert [counts[m] for group in META_TASKS.values() for m in group] == [
        10, 10, 12, 4, 5, 5, 5, 3, 10, 4, 6, 4,
    ]  # fmt: skip
    assert len({t.name for t in tasks}) == 78
    assert {t.parser for t in tasks} == set(PARSERS)


def test_query_totals_of_the_specification() -> None:
    totals: Counter[str] = Counter()
    for task in tasks_of("v2.1"):
        totals[task.modality] += task.queries or 0
    assert totals == {"image": 36_000, "video": 34_940, "visdoc": 12_590}


def test_what_the_protocols_change() -> None:
    old, middle, new = ({t.name: t for t in tasks_of(p)} for p in PROTOCOLS)
    assert old["MomentSeeker"].queries == 1800
    assert middle["MomentSeeker"].queries == new["MomentSeeker"].queries == 1602
    assert middle["MMLongBench-page"].source.repo == "VLM2Vec/MMLongBench"
    assert new["MMLongBench-page"].source.repo == "VLM2Vec/MMLongBench-page-fixed"
    assert new["ViDoSeek-page"].key == "ViDoSeek-page-fixed"
    without = [t for t in old.values() if t.modality == "visdoc" and not t.query_instruction]
    assert len(without) == 18
    assert old["VisRAG_PlotQA"].query_instruction == new["VisRAG_PlotQA"].query_instruction
    digests = [instruction_digest(list(t.values())) for t in (old, middle, new)]
    assert digests[0] == digests[1] != digests[2]
    assert sorted(t.name for t in new.values() if t.graded) == [
        "MMLongBench-doc", "ViDoRe_esg_reports_human_labeled_v2", "ViDoSeek-doc",
    ]  # fmt: skip


def test_tasks_are_chosen_by_name_group_and_modality() -> None:
    tasks = tasks_of()
    assert [t.name for t in choose(tasks, ["V-MR", "GQA"])] == [
        "GQA", "QVHighlight", "Charades-STA", "MomentSeeker",
    ]  # fmt: skip
    assert len(choose(tasks, ["visdoc"])) == 24
    assert choose(tasks, ["ViDoSeek-page-fixed"])[0].name == "ViDoSeek-page"
    with pytest.raises(InvalidOption, match="GQQ"):
        choose(tasks, ["GQQ"])


def _entry(**values: object) -> dict[str, object]:
    return {"dataset_name": "x", "max_frames_saved": 64, **values}


def test_the_three_projects_spellings_are_read(tmp_path: Path) -> None:
    vlm2vec = {
        "MSR-VTT": _entry(dataset_parser="msrvtt", num_frames=8, eval_type="global",
                          video_root="v/", frame_root="video-tasks/frames/video_ret/MSR-VTT/",
                          num_sample_per_subset="None"),
        "ViDoRe_esg_reports_v2": _entry(dataset_parser="vidore", eval_type="global"),
    }  # fmt: skip
    plume = {
        "GQA": _entry(dataset_parser="image_qa", dataset_split="test", eval_type="local",
                      image_root="image-tasks/MMEB/"),
        "MomentSeeker": _entry(dataset_parser="momentseeker", num_video_frames=8, clip_root="",
                               num_negative_clips=9, raw_dataset_abspath="", eval_type="local",
                               frame_root="f", data_path="video-tasks/data/momentseeker.jsonl"),
    }  # fmt: skip
    qwen = {
        "QVHighlight": _entry(dataset_parser="moment_retrieval", num_video_frames=64,
                              num_clip_frames=8, frame_root="q", eval_type="local"),
        "ViDoRe_arxivqa": _entry(dataset_parser="vidore", eval_type="global",
                                 image_root="visdoc-tasks/images/ViDoRe_arxivqa"),
    }  # fmt: skip
    paths = []
    for name, content in (("v", vlm2vec), ("p", plume), ("q", qwen)):
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(content))
    tasks, skipped = read_configurations(paths, tasks_of())
    found = {t.name: t for t in tasks}
    assert skipped == ["ViDoRe_esg_reports_v2"]
    assert list(found) == ["GQA", "MSR-VTT", "QVHighlight", "MomentSeeker", "ViDoRe_arxivqa"]
    assert found["MSR-VTT"].roots == ("video-tasks/frames/video_ret/MSR-VTT",)
    assert found["MSR-VTT"].first_rows is None
    assert found["GQA"].roots == ("image-tasks/MMEB",)
    assert found["MomentSeeker"].data_path == "video-tasks/data/momentseeker.jsonl"
    assert (found["QVHighlight"].frames, found["QVHighlight"].clip_frames) == (64, 8)


def test_a_local_task_scored_as_global_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.yaml"
    path.write_text(yaml.safe_dump({"GQA": {"dataset_parser": "image_qa", "eval_type": "global"}}))
    with pytest.raises(InvalidOption, match="eval_type: global, but MMEB-V2 has local"):
        read_configurations([path], tasks_of())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b\n", "not a table"),
        ("GQA: {eval_typ: local}", "unknown key 'eval_typ'"),
        ("Ego4D: {eval_type: local}", "not a task"),
        ("MSVD: {num_frames: many}", "not a number"),
        ("a: [", "cannot read"),
    ],
)
def test_a_malformed_configuration_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "video.yaml"
    path.write_text(content)
    with pytest.raises(InvalidOption, match=message):
        read_configurations([path], tasks_of())
