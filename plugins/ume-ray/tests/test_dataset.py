"""Parquet and datasets indexed on a cluster, by their ids."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Generator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ume_core
from ume_core.errors import InvalidOption
from ume_core.limits import Policy
from ume_core.testing.contract import picture
from ume_r1.index import Index
from ume_r1.index.rows import matrix
from ume_r1.index.table import Table
from ume_ray import Columns, Workers, embed_dataset

Run = Callable[..., tuple[int, str, str]]
Frail = Any  # conftest's
GALLERY = Path(__file__).resolve().parents[3] / "tools" / "gallery"


def stored(directory: Path) -> dict[str, np.ndarray]:
    """id -> vector of every row."""
    about = Index.open(directory).description
    found: dict[str, np.ndarray] = {}
    for rows, lost in Table(directory, about.generation, about.schema).pages():
        assert not lost
        for path, vector in zip(rows["path"].to_pylist(), matrix(rows["disc"]), strict=True):
            assert path not in found
            found[path] = vector
    return found


@pytest.fixture
def site(tmp_path: Path) -> Generator[str]:
    """A web server on this machine, which the default policy forbids."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "page.txt").write_text("a page")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_parquet_by_id_each_content_once(
    cluster: str, tmp_path: Path, frail: Frail, run: Run
) -> None:
    assert cluster
    texts = [f"thing number {number % 200}" for number in range(300)]
    ids = [f"https://shop/{number}/../x" for number in range(300)]  # ids may look like anything
    table = pa.table({
        "sku": [*ids, ids[7], ids[8], None, "empty", "sour"],
        "title": [*texts, texts[7], "something else", "no id", " ", "bad apples"],
        "price": [1.5] * 305,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "products.parquet", row_group_size=100)
    command = ("index", tmp_path / "products.parquet", "--to", tmp_path / "index", "--ray")
    status, out, err = run(
        *command, "--id-column", "sku", "--text-column", "title", "--model", frail.path
    )
    assert status == 0
    assert "200 embedded, 0 unchanged, 100 copied, 1 repeated, 4 failed" in out
    assert "failed empty: there is nothing to embed in title. Fix: drop such rows" in err
    assert "failed sour: it is bad" in err and "failed row: a row has no sku" in err
    assert f"failed {ids[8]}: another row of this id holds something else" in err
    assert "a second, by 1 worker on 1 node" in err
    assert max(Counter(frail.lines("embedded")).values()) == 1
    found = stored(tmp_path / "index")
    others = [name for name in found if name != ids[8]]  # either of its two contents
    assert sorted(others) == sorted(set(ids) - {ids[8]})
    np.testing.assert_allclose(
        np.stack([found[i] for i in others]),
        frail.vectors([texts[ids.index(i)] for i in others]), atol=1e-5,
    )  # fmt: skip
    status, out, err = run("search", tmp_path / "index", "thing number 5", "--top", "1")
    assert status == 0 and out.split()[1] in {ids[5], ids[205]} and "gone" not in out + err


def test_embed_dataset_goes_on_with_what_is_new(cluster: str, tmp_path: Path, frail: Frail) -> None:
    import ray

    assert cluster
    rows = [{"id": number, "text": f"thing {number}"} for number in range(50)]
    seen: list[int] = []
    embed = partial(
        embed_dataset, to=tmp_path / "index", model=str(frail.path), progress=seen.append
    )
    report = embed(ray.data.from_items(rows))
    assert (report.embedded, report.failures, seen[-1]) == (50, 0, 50)
    rows[3]["text"] = "changed"
    rows.append({"id": 50, "text": "thing 4"})
    report = embed(ray.data.from_items(rows))
    assert (report.embedded, report.unchanged, report.copied) == (1, 49, 1)
    assert report.pace.items == 51 and report.pace.nodes == 1 and report.pace.replaced == 0
    found = stored(tmp_path / "index")
    assert sorted(found, key=int) == [str(number) for number in range(51)]
    wanted = frail.vectors([str(row["text"]) for row in rows])
    got = np.stack([found[str(row["id"])] for row in rows])
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_pictures_paths_and_urls_are_opened_by_workers_under_the_policy(
    cluster: str, tmp_path: Path, site: str
) -> None:
    import ray

    assert cluster
    (tmp_path / "note.txt").write_text("a note")
    (tmp_path / "secret.txt").write_text("a secret")
    doc = tmp_path / "doc.pdf"
    picture(1).save(doc, save_all=True, append_images=[picture(2)])
    dog = (GALLERY / "dog.png").read_bytes()
    rows = [
        {"key": "picture", "photo": dog, "words": None, "file": None},
        {"key": "both", "photo": dog, "words": "a dog", "file": None},
        {"key": "note", "photo": None, "words": None, "file": str(tmp_path / "note.txt")},
        {"key": "secret", "photo": None, "words": None, "file": str(tmp_path / "secret.txt")},
        {"key": "site", "photo": None, "words": None, "file": f"{site}/page.txt"},
        {"key": "page", "photo": None, "words": None, "file": f"{doc}#page=2"},
        {"key": "pages", "photo": None, "words": None, "file": str(doc)},
        {"key": "relative", "photo": None, "words": None, "file": "note.txt"},
    ]
    ds = ray.data.from_arrow(pa.Table.from_pylist(rows))
    columns = Columns(id="key", image="photo", text="words", path="file")
    policy = Policy(roots=(tmp_path / "note.txt", doc))
    report = embed_dataset(
        ds, tmp_path / "index", columns=columns, model="ume-nano", engine="onnxruntime",
        policy=policy, workers=Workers(count=1, cpus=1),
    )  # fmt: skip
    assert report.embedded == 4 and report.failures == 4
    assert "has 2 pages. Fix: name one, such as" in report.failed["pages"]
    assert "not below" in report.failed["secret"] or "policy" in report.failed["secret"]
    assert "site" in report.failed and "relative" in report.failed["relative"]
    model = ume_core.load("ume-nano", engine="onnxruntime")
    expected = model.embed(
        [ume_core.Image(dog), [ume_core.Image(dog), "a dog"], "a note",
         ume_core.Image(f"{doc}#page=2")]
    ).disc  # fmt: skip
    assert expected is not None
    found = stored(tmp_path / "index")
    got = np.stack([found[name] for name in ("picture", "both", "note", "page")])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    kinds = {name: kind for name, (kind, _) in Index.open(tmp_path / "index").known().items()}
    pictures = {"picture": "image", "page": "image"}
    assert kinds == {**pictures, "both": "image+text", "note": "text"}


def test_what_does_not_fit_is_refused_before_anything_is_embedded(
    cluster: str, tmp_path: Path, frail: Frail, run: Run
) -> None:
    assert cluster
    pq.write_table(pa.table({"id": ["a"], "body": ["b"]}), tmp_path / "t.parquet")
    (tmp_path / "fake.parquet").write_text("no table")
    command = ("--to", tmp_path / "index", "--ray", "--model", frail.path)
    status, _, err = run("index", tmp_path / "t.parquet", *command)
    assert status == 2 and "the columns are id (string), body (string)" in err
    status, _, err = run("index", tmp_path / "fake.parquet", *command)
    assert status == 2 and "fake.parquet cannot be read as Parquet" in err
    status, _, err = run("index", tmp_path / "none.parquet", *command)
    assert status == 2 and "none.parquet does not exist" in err
    status, _, err = run(
        "index", tmp_path / "t.parquet", *command, "--text-column", "body", "--worker-cpus", "9"
    )
    assert status == 2 and "fits a cluster of 3 CPUs" in err
    assert not (tmp_path / "index").exists()
    with pytest.raises(InvalidOption, match="0 workers"):
        Workers(count=0)


def test_the_readmes_python_runs(
    cluster: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cluster
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).resolve().parents[1] / "README.md"
    [block] = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
    exec(compile(block, str(page), "exec"), {})
    assert capsys.readouterr().out.startswith("2 {} 2 items in")
