"""Reading the published files: streaming, everything bad at once, order by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ume_core.errors import InvalidItem, InvalidOption
from ume_core.items import Image, Text, Video
from ume_train.config.sections import DataFile, DataSection
from ume_train.data import rows
from ume_train.data.order import Order
from ume_train.data.published import example_of, problems_of
from ume_train.data.rows import Unparsed, read_record, scan
from ume_train.data.source import FileSource

REQUEST = (
    "Represent the above input text, images, videos, or any combination of the three as embeddings."
    " First output the thinking process in <think> </think> tags and then summarize the entire"
    " input in a word or sentence. Finally, use the <gen_emb> tag to represent the entire input."
)
ANSWER = "<think>a</think><answer>b<gen_emb>"


def _sft(asked: str, **media: Any) -> dict[str, Any]:
    def turns(text: str) -> list[dict[str, str]]:
        value = f"{text}\n<disc_emb>\n{REQUEST}"
        return [{"from": "human", "value": value}, {"from": "gpt", "value": ANSWER}]

    return {
        "qry": {"conversations": turns(asked), **media},
        "pos": {"conversations": turns("the answer")},
        "dataset_name": "made",
    }


@pytest.mark.parametrize("form", ["array", "lines", "indented"])
def test_records_are_found_whatever_the_reads(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"n": n, "text": "größer 象 } ] , " * (n % 5), "inner": [{}]} for n in range(40)]
    path = tmp_path / "data.json"
    text = {
        "array": json.dumps(records, ensure_ascii=False),
        "lines": "\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n",
        "indented": " \n" + json.dumps(records, indent=2, ensure_ascii=False) + "\n\n",
    }[form]
    path.write_text(text, "utf-8")
    for size in (1, 7, 1 << 20):
        monkeypatch.setattr(rows, "_READ", size)
        found = list(scan(path))
        assert [r for _, _, r in found] == records
        assert [read_record(path, start, length) for start, length, _ in found] == records


@pytest.mark.parametrize(
    "text", ['[{"a": 1} {"a": 2}]', '[{"a": 1}, nonsense]', '[{"a": 1}', "[1] x"]
)
def test_what_is_no_json_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(InvalidItem, match=r"record \d, at byte \d"):
        list(scan(path))


def test_a_broken_line_costs_that_line_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [_sft(f"text {n}") for n in range(5)]
    lines = [json.dumps(record) for record in good]
    cut, words, deep = lines[0][:-9], "no record: null, true", "[" * 100_000
    path = tmp_path / "data.jsonl"
    given = [lines[0], cut, lines[1], words, *lines[2:4], "}" + lines[0], deep, lines[4], cut]
    path.write_text("\n".join(given))
    for size in (7, 1 << 20):
        monkeypatch.setattr(rows, "_READ", size)
        found = list(scan(path))
        assert [r for _, _, r in found if not isinstance(r, Unparsed)] == good
        broken = [n for n, (_, _, r) in enumerate(found) if isinstance(r, Unparsed)]
        assert broken == [1, 3, 6, 7, 9]
        text = path.read_bytes()
        assert [text[start : start + length].decode() for start, length, _ in found] == given
    data = DataSection(files=(DataFile(path=path),))
    with pytest.raises(InvalidItem, match="5 records are bad") as caught:
        FileSource(data, size=2, seed=0, answers=True, work=tmp_path / "work")
    assert "record 3: is no JSON (Expecting value" in str(caught.value)
    skipping = data.model_copy(update={"bad_records": "skip"})
    source = FileSource(skipping, size=5, seed=0, answers=True, work=tmp_path / "work")
    assert sorted(e.item.text for e in source.batch(0).queries) == [f"text {n}" for n in range(5)]


def test_sft_records_are_read_as_published(tmp_path: Path) -> None:
    record = _sft("Before <image>\nafter", image=["a.png"])
    found = example_of(record, "qry", tmp_path, frame_pixels=None, place="here")
    assert [type(p) for p in found.item.parts] == [Text, Image, Text]
    assert found.item.text == "Before \nafter"  # the engine adds the request itself
    assert found.answer is not None and found.answer.text == ANSWER
    clip = _sft("<video>\nWhat?", video=["f0.png", "f1.png"])
    video = example_of(clip, "qry", tmp_path, frame_pixels=25_088, place="").item.parts[0]
    assert isinstance(video, Video) and len(video.frames or ()) == 2
    assert video.max_pixels == 25_088
    words = example_of(record, "pos", tmp_path, frame_pixels=None, place="")
    assert words.item.parts == (Text("the answer"),)


def test_rl_records_are_read_as_published(tmp_path: Path) -> None:
    record = {
        "dataset": "d", "dataset_name": "d", "qry_text": "What is it?", "qry_image": "a.png",
        "qry_video": [""], "solution": "<embedding>", "pos_text": "a dog", "pos_image": "",
        "pos_video": ["f0.png", "f1.png"],
    }  # fmt: skip
    query, target = (
        example_of(record, s, tmp_path, frame_pixels=None, place="") for s in ("qry", "pos")
    )
    assert [type(p) for p in query.item.parts] == [Image, Text]
    assert query.item.text == "What is it? "  # "{Question} \n<disc_emb>"
    assert [type(p) for p in target.item.parts] == [Video, Text]
    assert problems_of(record, answers=False) == []
    assert "no answer" in problems_of(record, answers=True)[0]


BAD: dict[str, Any] = {
    "not an object": 7,
    "no 'pos'": {"qry": {"conversations": []}},
    "has the roles": {**_sft("x"), "qry": {"conversations": [{"from": "gpt", "value": "x"}]}},
    "does not end in its one <gen_emb>": {
        **_sft("x"),
        "pos": {
            "conversations": [
                {"from": "human", "value": "x"},
                {"from": "gpt", "value": "<think>a</think><answer>b"},
            ]
        },
    },
    "has 2 <image>": _sft("<image><image>", image=["image.png"]),
    "does not exist": _sft("<image>", image=["missing.png"]),
    "leads out of": _sft("<image>", image=["../secret.png"]),
    "cannot be decoded": _sft("<image>", image=["broken.png"]),
    "qry is empty": _sft("  "),
}  # fmt: skip


def test_every_bad_record_is_listed_before_anything_is_computed(
    tmp_path: Path, drawn: Path
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    (media / "image.png").write_bytes((drawn / "media" / "00000.png").read_bytes())
    (media / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    (tmp_path / "secret.png").write_bytes((media / "image.png").read_bytes())
    good = [_sft("<image>", image=["image.png"]) for _ in range(4)]
    path = tmp_path / "data.json"
    path.write_text(json.dumps([*good[:2], *BAD.values(), *good[2:]]))
    data = DataSection(files=(DataFile(path=path, media=media),), check_media="decode")
    with pytest.raises(InvalidItem, match="9 records are bad") as caught:
        FileSource(data, size=2, seed=0, answers=True, work=tmp_path / "work")
    listed = (tmp_path / "work" / "bad-records.txt").read_text().splitlines()
    for number, (problem, line) in enumerate(zip(BAD, listed, strict=True), 2):
        assert f"record {number}: " in line and problem in line and problem in str(caught.value)
    skipping = data.model_copy(update={"bad_records": "skip"})
    source = FileSource(skipping, size=2, seed=0, answers=True, work=tmp_path / "work")
    assert len(source) == 4 and len(source.bad) == 9
    place = source.batch(0).queries[0].place
    assert place.startswith(str(path)) and place.endswith(", qry")


def test_no_batch_has_a_pair_that_is_held_out(tmp_path: Path, drawn: Path) -> None:
    data = DataSection(files=(DataFile(path=drawn / "sft.json", media=drawn / "media"),),
                       order="shuffled")  # fmt: skip
    source = FileSource(data, size=4, seed=3, answers=True, work=tmp_path, held_out=8)
    aside = {query.place for query, _ in source.held_out()}
    trained = {q.place for n in range(10) for q in source.batch(n).queries}
    assert len(aside) == 8 and len(trained) == 40 == len(source) and not aside & trained
    with pytest.raises(InvalidOption, match="30 of 48 pairs are to be held out"):
        FileSource(data, size=4, seed=3, answers=True, work=tmp_path, held_out=30)


def _order(**changes: Any) -> Order:
    given: dict[str, Any] = {
        "datasets": np.repeat([0, 1, 2], [40, 20, 3]), "weights": np.ones(3),
        "lengths": np.random.default_rng(1).integers(1, 1000, 63), "size": 4, "order": "grouped",
        "buckets": 1, "seed": 5,
    }  # fmt: skip
    return Order(**{**given, **changes})


def test_a_batch_is_of_one_data_set_and_a_function_of_its_number() -> None:
    order = _order(buckets=3)
    batches = [order.rows(n) for n in range(60)]
    for batch in batches:
        assert len(set(batch.tolist())) == 4
        assert len({int(r >= 40) for r in batch}) == 1
        assert batch.max() < 60  # three rows of the last data set fill no batch
    again = _order(buckets=3)
    for number in (47, 3, 59, 0):  # in any order, by another object
        assert (again.rows(number) == batches[number]).all()
    assert order.too_small == [2] and order.batches == 15


def test_every_row_comes_once_in_each_pass_over_its_data_set() -> None:
    order = _order()
    seen = [r for n in range(400) for r in order.rows(n).tolist() if r < 40]
    for start in range(0, len(seen) - 40, 40):
        assert sorted(seen[start : start + 40]) == list(range(40))
    assert seen[:40] != seen[40:80]


def test_weights_and_sizes_say_how_often_a_data_set_is_drawn() -> None:
    def share(order: Order) -> float:
        return float(np.mean([order.rows(n)[0] < 40 for n in range(3000)]))

    assert abs(share(_order()) - 2 / 3) < 0.03
    assert abs(share(_order(weights=np.array([1.0, 4.0, 1.0]))) - 1 / 3) < 0.03


def test_buckets_hold_rows_of_like_lengths() -> None:
    lengths = np.random.default_rng(1).integers(1, 1000, 63)

    def spread(order: Order) -> float:
        return float(np.mean([np.ptp(lengths[order.rows(n)]) for n in range(15)]))

    assert spread(_order(buckets=5)) < 0.5 * spread(_order())


def test_file_order_is_the_files_and_goes_round() -> None:
    order = _order(order="file")
    assert [order.rows(n).tolist() for n in (0, 14)] == [[0, 1, 2, 3], [56, 57, 58, 59]]
    assert order.rows(15).tolist() == [0, 1, 2, 3]  # the rest that fills no batch is left out
