"""Every parser on rows in the real columns: texts, frames, candidates, relevance, oddities."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ume_core.errors import InvalidOption
from ume_core.items import Text, Video
from ume_eval.data import Annotations, Page, TaskData, parse
from ume_eval.data.frames import natural_key, video
from ume_eval.data.parse import PARSERS
from ume_eval.data.visdoc import visrag_name
from ume_eval.demo import demo_tasks
from ume_eval.demo.tables import write_set
from ume_eval.tasks import Source, Task, tasks_of
from ume_eval.tasks.image import ANNOTATIONS

TASKS = {t.name: t for t in demo_tasks()}
QA = (
    "Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer. Question:  "
)


def _parsed(demo: Annotations, name: str) -> TaskData:
    return parse(TASKS[name], demo)


def test_the_miniature_has_a_task_for_every_parser_and_ranking() -> None:
    assert {t.parser for t in TASKS.values()} == set(PARSERS)
    assert {t.ranking for t in TASKS.values()} == {"local", "global"}
    assert {t.graded for t in TASKS.values()} == {True, False}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_of_the_miniature_can_be_embedded(demo: Annotations, name: str) -> None:
    data = _parsed(demo, name)
    assert len(data.queries) >= 4
    for entry in data.entries:
        item = entry.item()
        assert item.instruction is None
        assert item.parts
        assert "<|" not in item.text
    for query in data.queries:
        assert set(query.relevant) <= set(query.candidates or range(len(data.candidates)))


def test_texts_of_the_image_parsers(demo: Annotations) -> None:
    cases = {
        "ImageNet-1K": ("Represent the given image for classification", "red circle"),
        "ChartQA": (
            "Represent the given image with the following question: What colour is the circle?",
            "red",
        ),
        "MSCOCO_t2i": (
            "Find me an everyday image that matches the given caption: A red circle on white.",
            "Represent the given image.",
        ),
        "MSCOCO_i2t": (
            "Find an image caption describing the given everyday image.",
            "A red circle on white.",
        ),
        "WebQA": (
            "Find a Wikipedia image that answers this question: Which circle is red?",
            "Represent the given Wikipedia image with related text information: "
            "The circle, painted red",
        ),
        "NIGHTS": (
            "Find a day-to-day image that looks similar to the provided image.",
            "Represent the given image.",
        ),
        "RefCOCO-Matching": (
            'Select the portion of the image that follows the language expressions: "red circle"',
            'Select the portion of the image that follows the language expressions: "red circle"',
        ),
    }
    for name, (query, target) in cases.items():
        data = _parsed(demo, name)
        assert data.queries[0].entry.text == query, name
        assert data.candidates[0].text == target, name
        assert data.queries[0].relevant == {0: 1}


def _image_set(folder: Path, name: str, rows: list[dict[str, object]]) -> TaskData:
    write_set(folder, Source(ANNOTATIONS), {name: rows})
    task = next(t for t in tasks_of() if t.name == name)
    return parse(task, Annotations(folder, folder / ".arrow"))


def _row(**values: object) -> dict[str, object]:
    empty = {"qry_inst": "", "qry_text": "", "qry_img_path": "a.png", "tgt_inst": ""}
    return {**empty, "tgt_text": [""], "tgt_img_path": [""], **values}


def test_spaces_before_line_breaks_go_where_upstream_takes_them_away(tmp_path: Path) -> None:
    inst = "<|image_1|> Question: \nlook"
    row = _row(qry_inst=inst, qry_text="a \nb", tgt_text=["x", "y"])
    data = _image_set(tmp_path / "qa", "GQA", [row])
    assert data.queries[0].entry.text == "Question:\nlook a\nb"
    # image_t2i replaces nothing in a query.
    row = _row(qry_inst=inst, qry_text="a \nb", tgt_text=[""], tgt_img_path=["p.png"])
    data = _image_set(tmp_path / "t2i", "VisDial", [row])
    assert data.queries[0].entry.text == "Question: \nlook a \nb"


def test_two_captions_of_one_picture_are_one_candidate_but_both_are_ranked(tmp_path: Path) -> None:
    row = _row(tgt_inst="T:", tgt_text=["one", "two", "three"], tgt_img_path=["p", "q", "p"])
    data = _image_set(tmp_path, "EDIS", [row])
    assert [c.text for c in data.candidates] == ["T: one", "T: two"]
    assert data.queries[0].candidates == (0, 1, 0)


def test_an_empty_candidate_is_the_blank_picture(tmp_path: Path) -> None:
    data = _image_set(tmp_path, "OK-VQA", [_row(qry_inst="q", tgt_text=["yes", ""])])
    item = data.candidates[1].item()
    assert item.modality == "image"


def test_texts_of_the_video_parsers(demo: Annotations) -> None:
    options = "(A) blue circle\n(B) black square\n(C) yellow triangle"
    mvbench = _parsed(demo, "MVBench")
    assert mvbench.queries[1].entry.text == f"{QA}What moves?\nOptions:\n{options}"
    assert [mvbench.candidates[n].text for n in mvbench.queries[1].candidates or ()] == (
        options.split("\n")
    )
    assert len(mvbench.queries) == 20
    assert mvbench.queries[19].relevant == {}
    assert mvbench.notes == {"right answer not among the options": 1}

    videomme = _parsed(demo, "Video-MME")
    lettered = ["A. green square.", "B. orange circle.", "C. green triangle.", "D. blue star."]
    right = videomme.queries[0]
    assert right.entry.text.startswith(f"{QA}What moves to the right?\nA. ")
    second = [videomme.candidates[n] for n in videomme.queries[1].candidates or ()]
    assert [c.key for c in second] == lettered
    assert [c.text for c in second] == [
        "green square",
        "orange circle",
        "green triangle",
        "blue star",
    ]

    egoschema = _parsed(demo, "EgoSchema")
    assert egoschema.queries[1].entry.text == (
        f"{QA}What moves to the right?{' '.join(lettered)} E. blue circle."
    )
    nextqa = _parsed(demo, "NExTQA")
    assert nextqa.queries[1].entry.text == (
        f"{QA}What moves to the right?\nOptions:\n(A) green square\n(B) orange circle\n"
        "(C) green triangle\n(D) blue star\n(E) blue circle"
    )
    assert nextqa.candidates[0].text == "red circle"  # without its letter
    activity = _parsed(demo, "ActivityNetQA")
    assert activity.queries[0].entry.text == f"{QA}is there a circle? (A) yes; (B) no."
    assert activity.queries[0].relevant == {1: 1}


def test_an_option_without_a_dot_degenerates_as_upstream(tmp_path: Path) -> None:
    from ume_eval.demo.drawing import THINGS
    from ume_eval.demo.video import save_frames

    task = next(t for t in tasks_of() if t.name == "EgoSchema")
    save_frames(tmp_path / task.roots[0] / "v", THINGS[0])
    row = {"video_idx": "v", "question": "q", "option": ["A. up.", "down"], "answer": "0"}
    write_set(tmp_path, replace(task.source, config=None), {"Subset": [row]})
    data = parse(task, Annotations(tmp_path, tmp_path / ".arrow"))
    assert [c.text for c in data.candidates] == ["up", "n"]
    assert data.notes == {"options without '. ', cut to one character": 1}


def test_class_corpora_hold_every_class_once(demo: Annotations) -> None:
    breakfast = _parsed(demo, "Breakfast")
    assert [c.key for c in breakfast.candidates[:4]] == ["coffee", "milk", "tea", "salad"]
    assert len(breakfast.candidates) == 10
    from ume_eval.data.videos import class_names

    sizes = {name: len(set(names)) for name, names in class_names().items()}
    assert sizes == {"K700": 700, "HMDB51": 51, "UCF101": 101, "Breakfast": 10}


def test_eight_frames_in_natural_order(demo: Annotations) -> None:
    entry = _parsed(demo, "MSR-VTT").candidates[0]
    assert entry.media is not None
    names = [f.name for f in entry.media.files if isinstance(f, Path)]
    # linspace(0, 9, 8) cut to whole numbers
    assert names == [f"frame_{n}.jpg" for n in (0, 1, 2, 3, 5, 6, 7, 9)]
    part = entry.item().parts[0]
    assert isinstance(part, Video)
    assert len(part.frames or ()) == 8


def test_fewer_frames_than_wanted_are_all_taken_and_none_is_an_error(tmp_path: Path) -> None:
    for name in ("b10.JPG", "b9.png", "notes.txt", "a2.jpeg"):
        (tmp_path / name).touch()
    assert [Path(str(f)).name for f in video(tmp_path, 8).files] == ["a2.jpeg", "b9.png", "b10.JPG"]
    assert sorted(["x10", "x9", "X1"], key=natural_key) == ["X1", "x9", "x10"]
    with pytest.raises(InvalidOption, match="holds no frames"):
        video(tmp_path / "missing", 8)


def test_moment_retrieval(demo: Annotations) -> None:
    data = _parsed(demo, "QVHighlight")
    query = data.queries[1]
    keys = [data.candidates[n].key for n in query.candidates or ()]
    assert len(keys) == 5 and "clip1/query" not in keys
    assert [data.candidates[n].key for n in query.relevant] == ["clip1/positive"]
    assert query.entry.media is not None and len(query.entry.media.files) == 8
    assert not any(str(demo.data) in str(c.key) for c in data.candidates)


def test_a_moment_without_a_right_clip_is_a_miss_and_noted(tmp_path: Path) -> None:
    from ume_eval.demo.drawing import THINGS
    from ume_eval.demo.video import save_frames

    task = next(t for t in tasks_of() if t.name == "Charades-STA")
    root = tmp_path / "video-tasks/frames/video_mret/Charades_STA"  # the second of its roots
    for folder in ("query", "negative_0", "negative_1"):
        save_frames(root / "v" / folder, THINGS[0], 8)
    write_set(tmp_path, task.source, {"default": [{"query": "q", "video_path": "v.mp4"}]})
    data = parse(task, Annotations(tmp_path, tmp_path / ".arrow"))
    assert data.queries[0].relevant == {}
    assert data.notes == {"row without a right clip": 1}


def test_moment_seeker_takes_its_instruction_from_the_query(demo: Annotations) -> None:
    data = _parsed(demo, "MomentSeeker")
    leads = [q.entry.text.split(":")[0] for q in data.queries]
    assert leads == [
        "Find the clip that corresponds to the given text",
        "Select the video clip that aligns with the given text and image",
        "Find the clip that corresponds to the given sentence and video segment",
        "Find the clip that corresponds to the given text",
    ]
    kinds = [q.entry.media.kind if q.entry.media else None for q in data.queries]
    assert kinds == [None, "image", "video", None]
    assert len(data.queries[3].relevant) == 2
    last = data.candidates[-1].media
    assert last is not None and len(last.files) == 3  # all saved frames
    assert data.candidates[0].text == "Understand the content of the provided video clip."


def test_momentseeker_and_others_are_read_from_json_lines_too(demo: Annotations) -> None:
    rows = demo.rows(TASKS["MomentSeeker"])
    (demo.data / "seeker.jsonl").write_text("\n".join(json.dumps(r) for r in rows[:2]) + "\n")
    data = parse(replace(TASKS["MomentSeeker"], data_path="seeker.jsonl"), demo)
    assert len(data.queries) == 2
    with pytest.raises(InvalidOption, match="cannot read"):
        parse(replace(TASKS["MomentSeeker"], data_path="gone.jsonl"), demo)


def test_visual_documents(demo: Annotations) -> None:
    data = _parsed(demo, "ViDoRe_esg_reports_human_labeled_v2")
    query = data.queries[0]
    assert query.candidates is None
    assert {data.candidates[n].key: g for n, g in query.relevant.items()} == {6: 2, 12: 1, 0: 3}
    # Pages that queries name stand first, in the order of the relevance; then the others.
    assert [c.key for c in data.candidates[:4]] == [6, 12, 0, 7]
    assert len({c.key for c in data.candidates}) == 18
    first = data.candidates[0].media
    assert first is not None and isinstance(first.files[0], Page)
    assert query.entry.text.startswith("Find a document image that matches the given query: On")


def test_vidore_had_no_instructions_before_v2_1(demo: Annotations) -> None:
    task = next(t for t in demo_tasks("v2.0") if t.name == "ViDoRe_arxivqa")
    data = parse(task, demo)
    assert data.queries[0].entry.text == "On which page is the red circle?"
    assert data.candidates[0].text == ""
    assert not any(isinstance(p, Text) for p in data.candidates[0].item().parts)


def test_long_names_of_visrag_pages_are_cut_and_hashed() -> None:
    name = "x" * 80 + ".v2.jpg"
    digest = hashlib.md5(name.encode()).hexdigest()[:8]
    assert visrag_name(name) == f"{'x' * 50}_{digest}.jpg"
    assert visrag_name("a.png").startswith("a_") and visrag_name("a.png").endswith(".png")


def test_pages_come_from_their_folder_if_there_is_one(demo: Annotations) -> None:
    task = replace(TASKS["VisRAG_ChartQA"], roots=("pages",))
    pages = demo.data / "pages"
    pages.mkdir()
    try:
        with pytest.raises(InvalidOption, match="lacks 18 of 18 pages"):
            parse(task, demo)
        for row in demo.table(task.source, "corpus"):
            (pages / visrag_name(row["corpus-id"])).write_bytes(row["image"]["bytes"])
        from_folder, from_corpus = parse(task, demo), _parsed(demo, "VisRAG_ChartQA")
        digests = [e.digest() for e in from_folder.candidates]
        assert digests == [e.digest() for e in from_corpus.candidates]
    finally:
        for file in pages.iterdir():
            file.unlink()
        pages.rmdir()


def test_missing_annotations_name_the_download(tmp_path: Path) -> None:
    task = next(t for t in tasks_of() if t.name == "MMLongBench-doc")
    with pytest.raises(InvalidOption) as caught:
        parse(task, Annotations(tmp_path))
    assert (
        "hf download VLM2Vec/MMLongBench-doc --repo-type dataset "
        "--revision 1c2ee8f611a6c552d4bd90daca3a92d7a55ff806 --local-dir"
    ) in str(caught.value)


def test_another_data_sets_columns_are_named(tmp_path: Path) -> None:
    task = next(t for t in tasks_of() if t.name == "MSVD")
    write_set(tmp_path, task.source, {"default": [{"video_id": "v", "sentence": "s"}]})
    with pytest.raises(InvalidOption, match="no column 'caption'"):
        parse(task, Annotations(tmp_path, tmp_path / ".arrow"))


def test_the_revision_that_the_download_noted_is_reported(
    demo: Annotations, tmp_path: Path
) -> None:
    task: Task = TASKS["MSVD"]
    assert _parsed(demo, "MSVD").revision is None
    notes = tmp_path / "annotations" / task.source.repo / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "README.md.metadata").write_text("abc123\netag\n1.0\n")
    assert Annotations(tmp_path).revision(task.source) == "abc123"


def test_content_digests_ignore_names_and_places(tmp_path: Path) -> None:
    from ume_eval.data import Entry, Media

    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "c.png")
    a, b, c = (Entry(n, "t", Media("image", (tmp_path / f"{n}.png",))) for n in "abc")
    assert a.digest() == b.digest() != c.digest()
    assert a.digest() != Entry("a", "u", a.media).digest()
