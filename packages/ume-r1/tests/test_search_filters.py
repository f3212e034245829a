"""Dates, scores, more like this, near-duplicates: in Python, on the command line and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from ume_core import UmeError
from ume_core.items import Image
from ume_core.results import EmbeddingResult
from ume_core.testing import FakeEmbedder
from ume_core.testing.contract import picture
from ume_r1.index import Index, build_index
from ume_r1.index.dates import check_date, date_of

Create = Callable[..., Index]
Run = Callable[..., tuple[int, str, str]]
MAY = 1_748_700_000  # 2025-05-31T14:00:00Z


@pytest.fixture
def index(folder: Path, create: Create, model: FakeEmbedder) -> Index:
    """Files of May 2025, but a picture that was taken in 2019, and a note of 2026."""
    exif = PILImage.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2019:07:08 09:10:11"
    picture(5).save(folder / "a" / "old.jpg", exif=exif)
    for path in folder.rglob("*.*"):
        os.utime(path, (MAY, MAY))
    os.utime(folder / "b" / "note.txt", (MAY + 300 * 86400, MAY + 300 * 86400))
    made = create(folder)
    build_index(made, folder, model)
    return made


def test_files_are_found_by_when_they_were_taken_or_changed(
    index: Index, model: FakeEmbedder, run: Run
) -> None:
    vector = model.embed(["x"]).vectors("disc")[0]

    def names(**dates: Any) -> set[str]:
        return {hit.name for hit in index.search(vector, "disc", 50, **dates)}

    assert names(until="2019") == names(since="2019-07-08", until="2019-07-08") == {"a/old.jpg"}
    assert names(since="2026") == {"b/note.txt"} and len(names(since="2025", until="2025")) == 5
    assert len(names(since="2025-05-31T14", until="2025-05-31T14:00:00")) == 5
    assert names(since="2025-05-31T15", until="2025-06") == set()
    status, out, _ = run("search", index.directory, "x", "--until", "2020-01", "--json")
    (hit,) = json.loads(out)["hits"]
    assert status == 0 and hit["name"] == "a/old.jpg" and hit["date"] == "2019-07-08T09:10:11"
    status, _, err = run("search", index.directory, "x", "--since", "yesterday")
    assert status == 2 and "--since 'yesterday' is no date" in err and "2026-05" in err


@pytest.mark.parametrize("text", ["26", "2026-5", "2026-05-31 10:00", "2026'; drop", "2026~"])
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(UmeError, match="is no date"):
        check_date(text, "since")


@pytest.mark.parametrize("value", ["0000:00:00 00:00:00", "", "yesterday", 7])
def test_a_picture_with_a_useless_date_has_the_files(value: Any, tmp_path: Path) -> None:
    exif = PILImage.Exif()
    exif[0x0132] = value
    picture(1).save(tmp_path / "p.jpg", exif=exif)
    data = (tmp_path / "p.jpg").read_bytes()
    assert date_of("image", data, MAY * 10**9) == "2025-05-31T14:00:00"
    assert date_of("image", b"\xff\xd8\xff\xe1", -1) == ""


def test_a_score_threshold_leaves_out_what_is_below(
    index: Index, model: FakeEmbedder, run: Run
) -> None:
    vector = model.embed([picture(0)]).vectors("disc")[0]
    everything = index.search(vector, "disc", 50)
    least = everything[2].score
    assert index.search(vector, "disc", 50, min_score=least) == everything[:3]
    assert index.search(vector, "disc", 50, min_score=1.1) == []
    _, out, _ = run("search", index.directory, "the note of a", "--min-score", "0.99", "--json")
    assert [hit["name"] for hit in json.loads(out)["hits"]] == ["a/note.txt"]


def test_more_like_a_file_needs_no_model(
    index: Index, model: FakeEmbedder, run: Run, loads: list[Any], folder: Path
) -> None:
    vector = model.embed([Image(folder / "a" / "p0.png")]).vectors("disc")[0]
    wanted = [h.name for h in index.search(vector, "disc", 50) if h.name != "a/p0.png"]
    assert [hit.name for hit in index.like("a/p0.png", "disc", 50)] == wanted
    for name in ("a/p0.png", folder / "a" / "p0.png"):
        status, out, _ = run("search", index.directory, "--like", name, "--top", 3, "--json")
        found = json.loads(out)
        assert status == 0 and [hit["name"] for hit in found["hits"]] == wanted[:3]
        assert found["query"]["like"] == str(name)
    assert not loads
    _, out, _ = run("search", index.directory, "--like", "a/p0.png", "--kind", "text", "--json")
    assert {hit["kind"] for hit in json.loads(out)["hits"]} == {"text"}
    status, _, err = run("search", index.directory, "--like", "a/none.png")
    assert status == 2 and "no file 'a/none.png'" in err
    status, _, err = run("search", index.directory, "--like", "../secret.png")
    assert status == 2 and "leads out" in err
    status, _, err = run("search", index.directory, "words", "--like", "a/p0.png")
    assert status == 2 and "--like" in err and "--image" in err


class _Near(FakeEmbedder):
    """Texts `GROUP NUMBER`: those of a group are nearly the same; group 0 is the best."""

    def embed(self, items: Any, **options: Any) -> EmbeddingResult:
        given = [getattr(item, "text", item) for item in items]
        result = super().embed(items, **options)
        made = np.zeros((len(given), 32), np.float32)
        for row, text in enumerate(given):
            group, number = map(int, text.split())
            made[row, 0], made[row, 1 + group] = 1 - group / 10, 0.5
            made[row, 31] = number / 1000
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return EmbeddingResult(result.records, result.signature, disc=made)


def test_near_duplicates_hide_behind_the_best_of_them(
    tmp_path: Path, create: Create, run: Run
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for group in range(4):
        for number in range(30):
            (folder / f"{group}-{number:02}.txt").write_text(f"{group} {number}")
    index = create(folder)
    model = _Near(dimensions=32)
    build_index(index, folder, model)
    vector = model.embed(["0 0"]).vectors("disc")[0]
    plain = index.search(vector, "disc", 3)
    assert [hit.name for hit in plain] == ["0-00.txt", "0-01.txt", "0-02.txt"]
    hits = index.search(vector, "disc", 3, unique=0.99)
    assert [hit.name for hit in hits] == ["0-00.txt", "1-00.txt", "2-00.txt"]
    assert len(hits[0].duplicates) == 29 and hits[0].duplicates[0] == "0-01.txt"
    whole = index.search(vector, "disc", 50, unique=0.99)
    assert len(whole) == 4 and sum(len(hit.duplicates) for hit in whole) == 116
    assert index.best(index.scores(vector, "disc"), 3, unique=0.99)[1].name == "1-00.txt"
    _, out, _ = run("search", index.directory, "--like", "0-00.txt", "--unique", "0.99", "--json")
    found = json.loads(out)["hits"]
    assert [hit["name"] for hit in found] == ["1-00.txt", "2-00.txt", "3-00.txt"]
    assert "1-02.txt" in found[0]["duplicates"]
    _, out, _ = run("search", index.directory, "--like", "0-00.txt", "--unique")
    assert "like it]" in out
