"""PDFs in the index and in `ume embed`: a row a page."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

from ume_core.items import Image
from ume_core.testing import FakeEmbedder
from ume_core.testing.contract import picture
from ume_r1 import files
from ume_r1.index import BuildReport, Index, batches, build_index, folders, pages
from ume_r1.index.page import write_page
from ume_r1.index.remote import RemoteFolder
from ume_r1.index.writer import writing
from ume_r1.testing import Bucket, fetched_names

pytest.importorskip("pypdfium2", reason="pypdfium2 draws PDFs")
Create = Callable[..., Index]
Run = Callable[..., tuple[int, str, str]]


def write(path: Path, *seeds: int) -> None:
    """A PDF with a picture a page."""
    images: list[PILImage.Image] = [picture(seed) for seed in seeds]
    images[0].save(path, save_all=True, append_images=images[1:])


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    write(folder / "sub" / "doc.pdf", 1, 2, 3)
    picture(9).save(folder / "p.png")
    return folder


def figures(report: BuildReport) -> tuple[int, int, int, int]:
    return report.embedded, report.unchanged, report.moved, report.removed


def test_a_pdf_is_a_row_a_page_and_is_followed(
    docs: Path, create: Create, model: FakeEmbedder
) -> None:
    index = create(docs)
    progress: list[tuple[int, int]] = []
    report = build_index(index, docs, model, progress=lambda *done: progress.append(done))
    assert figures(report) == (4, 0, 0, 0) and progress[-1] == (4, 4)
    assert sorted(index.known()) == ["p.png", *(f"sub/doc.pdf#page={n}" for n in (1, 2, 3))]
    assert {kind for kind, _ in index.known().values()} == {"image"}

    def refuse() -> FakeEmbedder:
        raise AssertionError("the model is loaded")

    assert figures(build_index(index, docs, refuse)) == (0, 4, 0, 0)  # read: just written
    (docs / "sub" / "doc.pdf").rename(docs / "new.pdf")
    assert figures(build_index(index, docs, refuse)) == (0, 1, 3, 0)
    docs.rename(docs.with_name("elsewhere"))
    docs = docs.with_name("elsewhere")
    index.move_to(docs)
    assert figures(build_index(index, docs, refuse)) == (0, 4, 0, 0)
    write(docs / "new.pdf", 1)  # two pages fewer, in other bytes
    assert figures(build_index(index, docs, model)) == (1, 1, 0, 2)
    (docs / "new.pdf").unlink()
    assert figures(build_index(index, docs, refuse)) == (0, 1, 0, 1)


def test_an_unchanged_pdf_is_not_read(
    docs: Path, create: Create, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ume_r1.index.seen as seen

    monkeypatch.setattr(seen, "_TICK_NS", 0)  # as if the files were old
    index = create(docs)
    build_index(index, docs, model)
    for module, name in (
        (folders, "read_file"), (folders, "digest_file"), (pages, "count_pages"),
        (pages, "draw_page"),
    ):  # fmt: skip
        monkeypatch.delattr(module, name)
    assert build_index(index, docs, model).unchanged == 4


def test_an_interrupted_pdf_goes_on_where_it_stopped(
    docs: Path, create: Create, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batches._CHUNK, "disc", 2)
    index = create(docs)

    def stop(done: int, total: int) -> None:
        if done == 2 < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(index, docs, model, progress=stop)
    index.reopen()
    assert len(index) == 2
    report = build_index(index, docs, model)
    assert figures(report) == (2, 2, 0, 0) and not report.repaired


def test_a_broken_page_is_named_and_the_others_are_indexed(
    docs: Path, create: Create, model: FakeEmbedder
) -> None:
    file = docs / "sub" / "doc.pdf"
    file.write_bytes(file.read_bytes().replace(b"/Count 3", b"/Count 4"))
    (docs / "bad.pdf").write_bytes(b"%PDF-1.4 nonsense")
    index = create(docs)
    for _ in range(2):  # it is tried again, and said again
        report = build_index(index, docs, model)
        assert set(report.skipped) == {"bad.pdf", "sub/doc.pdf#page=4"}
        assert report.skipped["sub/doc.pdf#page=4"].startswith("page 4 of it cannot be drawn")
        assert len(index) == 4


def test_a_damaged_file_takes_its_own_pages_along_and_a_missing_package_none(
    docs: Path, create: Create, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = create(docs)
    write(docs / "other.pdf", 5)
    build_index(index, docs, model)
    (docs / "other.pdf").write_bytes(b"%PDF-1.4 nonsense")
    with monkeypatch.context() as without:
        without.setattr(files, "_reads_pdf", lambda: False)
        report = build_index(index, docs, model)
        assert report.unread == {".pdf": 2} and len(report.kept) == 4 and len(index) == 5
        assert report.kept["sub/doc.pdf#page=2"].startswith("sub/doc.pdf: pypdfium2 is not inst")
        lines, missed = files.left_out(report.unread)
        assert missed and lines == [
            "left out 2 .pdf files. Fix: pip install pypdfium2, and run again"
        ]
    report = build_index(index, docs, model)
    assert "other.pdf" in report.skipped and sorted(index.known()) == [
        "p.png", *(f"sub/doc.pdf#page={n}" for n in (1, 2, 3)),
    ]  # fmt: skip


def test_pdfs_that_swapped_their_names_are_copied(
    docs: Path, create: Create, model: FakeEmbedder
) -> None:
    one, other = docs / "sub" / "doc.pdf", docs / "other.pdf"
    write(other, 5, 6)
    index = create(docs)
    build_index(index, docs, model)
    before = index.known()
    one.rename(docs / "x")
    other.rename(one)
    (docs / "x").rename(other)
    report = build_index(index, docs, lambda: pytest.fail("the model is loaded"))
    assert figures(report) == (0, 1, 5, 0)
    known = index.known()
    assert known["other.pdf#page=3"] == before["sub/doc.pdf#page=3"]
    assert known["sub/doc.pdf#page=2"] == before["other.pdf#page=2"]
    assert len(known) == 6


def test_a_pdf_that_may_still_be_written_keeps_its_pages(
    docs: Path, create: Create, model: FakeEmbedder
) -> None:
    index = create(docs)
    build_index(index, docs, model)
    write(docs / "sub" / "doc.pdf", 7)
    report = build_index(index, docs, model, settle=600)
    assert sorted(report.unsettled) == ["p.png", "sub/doc.pdf"] and figures(report) == (0, 0, 0, 0)
    assert len(index) == 4
    assert figures(build_index(index, docs, model)) == (1, 1, 0, 2)


def test_a_lost_row_of_a_page_is_the_only_one_embedded_again(
    docs: Path, create: Create, model: FakeEmbedder
) -> None:
    index = create(docs)
    build_index(index, docs, model)
    with writing(index) as writer:
        writer.remove(["sub/doc.pdf#page=2"])
        writer.finish()
    report = build_index(index, docs, model)
    assert figures(report) == (1, 3, 0, 0) and report.repaired == ["sub/doc.pdf#page=2"]


def test_pages_have_their_files_date_and_more_like_one_is_found(
    docs: Path, tmp_path: Path, run: Run
) -> None:
    file, index = docs / "sub" / "doc.pdf", tmp_path / "index"
    os.utime(file, (1_748_700_000, 1_748_700_000))
    run("index", docs, "--to", index)
    asked = ("search", index, "--like", "sub/doc.pdf#page=2", "--json", "--until", "2025")
    status, said, _ = run(*asked)
    hits = json.loads(said)["hits"]
    assert status == 0 and sorted(hit["page"] for hit in hits) == [1, 3]
    assert {hit["path"] for hit in hits} == {str(file)}
    assert {hit["date"] for hit in hits} == {"2025-05-31T14:00:00"}
    _, said, _ = run("search", index, "a", "dog", "--json", "--unique=-1", "--until", "2025")
    (hit,) = json.loads(said)["hits"]
    assert {hit["name"], *hit["duplicates"]} == {f"sub/doc.pdf#page={n}" for n in (1, 2, 3)}
    assert json.loads(run("search", index, "x", "--json", "--since", "2026")[1])["hits"]
    status, _, told = run("search", index, "--like", "sub/doc.pdf")
    assert status == 2 and "name a page, such as 'sub/doc.pdf#page=1'" in told


def test_a_pdf_on_an_object_store_is_fetched_once(
    docs: Path, bucket: Bucket, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(docs, "docs")
    uri, index = f"{bucket.uri}/docs", tmp_path / "index"
    assert run("index", docs, "--to", tmp_path / "local")[0] == 0
    fetched = fetched_names(monkeypatch)
    monkeypatch.delattr(RemoteFolder, "digest")  # which fetches too

    def figures() -> tuple[int, ...]:
        found = json.loads(run("index", uri, "--to", index, "--json")[1])
        return tuple(found[name] for name in ("embedded", "unchanged", "moved", "removed"))

    assert figures() == (4, 0, 0, 0) and sorted(fetched) == ["p.png", "sub/doc.pdf"]
    assert dict(Index.open(index).known()) == dict(Index.open(tmp_path / "local").known())
    fetched.clear()
    assert figures() == (0, 4, 0, 0) and not fetched
    bucket.put("docs/new.pdf", bucket.get("docs/sub/doc.pdf"))
    bucket.delete("docs/sub/doc.pdf")
    assert figures() == (0, 1, 3, 0) and fetched == ["new.pdf"]
    fetched.clear()
    write(tmp_path / "short.pdf", 1)
    bucket.put("docs/new.pdf", (tmp_path / "short.pdf").read_bytes())
    assert figures() == (1, 1, 0, 2) and fetched == ["new.pdf"]
    status, said, _ = run("search", index, "a", "dog", "--json", "--top", "1", "--kind", "image")
    (hit,) = json.loads(said)["hits"]
    assert status == 0 and (hit["path"], hit["page"]) in (
        (f"{uri}/new.pdf", 1),
        (f"{uri}/p.png", None),
    )


def test_searches_print_pages_and_take_what_they_print(
    docs: Path, tmp_path: Path, run: Run
) -> None:
    index = tmp_path / "index"
    assert run("index", docs, "--to", index)[0] == 0
    page = f"{docs}/sub/doc.pdf#page=2"
    status, said, _ = run("search", index, "--image", page, "--under", "sub", "--kind", "image")
    assert status == 0 and said.splitlines()[0] == f"  1.000  {page}"
    assert len(said.splitlines()) == 3
    _, said, _ = run("search", index, "--image", page, "--json", "--top", 1)
    (hit,) = json.loads(said)["hits"]
    assert (hit["path"], hit["page"], hit["name"]) == (
        f"{docs}/sub/doc.pdf", 2, "sub/doc.pdf#page=2",
    )  # fmt: skip
    assert not hit["gone"]
    status, _, told = run("search", index, "--image", docs / "sub" / "doc.pdf")
    assert status == 2 and "has 3 pages. Fix: name one, such as" in told


def test_paths_for_other_programs_are_files(docs: Path, tmp_path: Path, run: Run) -> None:
    run("index", docs, "--to", tmp_path / "index")
    _, said, _ = run("search", tmp_path / "index", "a", "dog", "-0")
    found = [Path(name) for name in said.split("\0")[:-1]]
    assert len(found) == 2 and all(path.is_file() for path in found)


def test_the_written_page_shows_pages_and_links_to_them(
    docs: Path, create: Create, model: FakeEmbedder, tmp_path: Path
) -> None:
    index = create(docs)
    build_index(index, docs, model)
    item = Image(f"{docs}/sub/doc.pdf#page=2")
    result = model.embed([item])
    hits = index.search(result.vectors("disc")[0], "disc", 9)
    from ume_core.items import as_item

    write_page(tmp_path / "page.html", as_item(item), result.records[0], hits, index, "disc")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert all(f'href="docs/sub/doc.pdf#page={n}"' in text for n in (1, 2, 3))
    assert "cannot be read" not in text and "(gone)" not in text


@pytest.mark.parametrize(
    ("id_from", "ids"),
    [
        ("path", ["docs/p.png", *(f"docs/sub/doc.pdf#page={n}" for n in (1, 2, 3))]),
        ("stem", ["p", *(f"doc#page={n}" for n in (1, 2, 3))]),
    ],
)
def test_embed_writes_a_row_a_page(
    docs: Path, run: Run, monkeypatch: pytest.MonkeyPatch, id_from: str, ids: list[str]
) -> None:
    monkeypatch.chdir(docs.parent)
    monkeypatch.setattr("ume_r1.commands.embed.load_from", lambda args: FakeEmbedder())
    (docs / "bad.pdf").write_bytes(b"%PDF-1.4 nonsense")
    status, _, told = run("embed", "docs", "--id-from", id_from, "--out", "v.parquet")
    assert status == 1 and "docs/bad.pdf is not a PDF that PDFium can read" in told
    rows = pq.read_table("v.parquet").to_pylist()
    done = [row["id"] for row in rows if row["status"] == "ok"]
    assert done == ids and len(rows) == 5
    monkeypatch.setattr("ume_r1.commands.embed.load_from", lambda args: FakeEmbedder())
    status, said, _ = run("embed", "docs/sub/doc.pdf#page=3")
    assert status == 0 and json.loads(said)["path"] == "docs/sub/doc.pdf#page=3"
