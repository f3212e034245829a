"""The page: whole in itself, safe, readable by everybody, and silent about the machine."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image as PILImage

from ume_core.items import as_item
from ume_core.testing import FakeEmbedder
from ume_core.testing.contract import picture
from ume_r1.index import Index, build_index
from ume_r1.index.page import write_page

Create = Callable[..., Index]


class Elements(HTMLParser):
    """The elements of a page: (tag, attributes), and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.all if name == tag]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with photos: a picture, a clip, a text and a hostile name."""
    photos = tmp_path / "home" / "jane" / "photos"
    (photos / "sub").mkdir(parents=True)
    picture(1, 600, 300).save(photos / "sub" / "a b#1.png")
    with av.open(str(photos / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 86, 84, "yuv420p"
        for seed in range(4):
            frame = av.VideoFrame.from_image(picture(seed, 86, 84))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (photos / "note.txt").write_text("<b>a note</b>")
    picture(2).save(photos / "<img src=x onerror=alert(1)>.png")
    return tmp_path / "home" / "jane"


def page_of(
    index: Index, path: Path, query: Any, model: FakeEmbedder, mode: Any = "disc"
) -> Elements:
    item = as_item(query)
    result = model.embed([item], mode=mode)
    hits = index.search(result.vectors(mode)[0], mode, 10)
    write_page(path, item, result.records[0], hits, index, mode)
    return Elements(path.read_text("utf-8"))


def test_the_page_shows_everything_and_nothing_of_the_machine(
    home: Path, create: Create, model: FakeEmbedder
) -> None:
    index = create(home / "photos")
    build_index(index, home / "photos", model)
    page = page_of(index, home / "page.html", "<script>alert(1)</script>", model)
    raw = (home / "page.html").read_text("utf-8")
    assert "jane" not in raw and str(home.parent) not in raw and "file:" not in raw
    assert "<script" not in raw and "<img src=x" not in raw and "<b>" not in raw
    assert "<b>a note</b>" in page.text and "<script>alert(1)</script>" in page.text
    links = {link["href"] for link in page.named("a")}
    assert "photos/sub/a%20b%231.png" in links and len(links) == 4
    for tag, attributes in page.all:  # no request leaves the page
        for name in ("src", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag


def test_landmarks_headings_and_alternative_texts(
    home: Path, create: Create, model: FakeEmbedder
) -> None:
    index = create(home / "photos", "both")
    build_index(index, home / "photos", model)
    page = page_of(index, home / "page.html", "a bus", model, "gen")
    for tag, count in {"main": 1, "header": 1, "h1": 1, "h2": 4, "article": 4}.items():
        assert len(page.named(tag)) == count, tag
    assert page.named("html") == [{"lang": "en"}]
    summaries = re.findall(r"summary ([0-9a-f]{12})", re.sub(r"\s+", " ", page.text))
    assert {image["alt"] for image in page.named("img")} <= set(summaries)
    for attributes in page.named("div"):
        if "text" in (attributes.get("class") or ""):  # it scrolls, so the keyboard must reach it
            assert attributes["tabindex"] == "0" and attributes["role"] == "region"
            assert attributes["aria-label"]
    disc = page_of(index, home / "page.html", "a bus", model)
    assert all(image["alt"] for image in disc.named("img"))


def test_clips_have_controls_and_do_not_move_by_themselves(
    home: Path, create: Create, model: FakeEmbedder
) -> None:
    index = create(home / "photos")
    build_index(index, home / "photos", model)
    page = page_of(index, home / "page.html", home / "photos" / "clip.mp4", model)
    clips = page.named("video")
    assert len(clips) == 2  # the query and the result
    for clip in clips:
        assert "controls" in clip and "autoplay" not in clip and clip["poster"]
    source = (page.named("source")[0]["src"] or "").partition(",")[2]
    with av.open(io.BytesIO(base64.b64decode(source))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4
    raw = (home / "page.html").read_text("utf-8")
    assert "image/webp" not in raw and "image/gif" not in raw
    motion = raw.index("transition")
    assert "prefers-reduced-motion: no-preference" in raw[:motion]


def test_thumbnails_are_sharp_enough_for_dense_screens(
    home: Path, create: Create, model: FakeEmbedder
) -> None:
    index = create(home / "photos")
    build_index(index, home / "photos", model)
    page = page_of(index, home / "page.html", "a bus", model)
    images = [
        PILImage.open(io.BytesIO(base64.b64decode((i["src"] or "").partition(",")[2])))
        for i in page.named("img")
    ]
    assert (480, 240) in {image.size for image in images}


def test_dead_files_are_marked_and_not_linked(
    home: Path, create: Create, model: FakeEmbedder
) -> None:
    index = create(home / "photos")
    build_index(index, home / "photos", model)
    (home / "photos" / "note.txt").unlink()
    (home / "photos" / "clip.mp4").write_bytes(b"damaged")
    page = page_of(index, home / "page.html", "a bus", model)
    assert page.text.count("(gone)") == 1 and "not there any more" in page.text
    assert "cannot be read any more" in page.text
    assert "photos/note.txt" not in {link["href"] for link in page.named("a")}
    assert "jane" not in (home / "page.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("place", "link"),
    [
        ("photos/page.html", "sub/a%20b%231.png"),
        ("photos/sub/page.html", "a%20b%231.png"),
        ("out/page.html", "../photos/sub/a%20b%231.png"),
        ("../../page.html", None),
    ],
)
def test_links_name_no_directory_outside_the_folder(
    home: Path, create: Create, model: FakeEmbedder, place: str, link: str | None
) -> None:
    index = create(home / "photos")
    build_index(index, home / "photos", model)
    path = home / place
    path.parent.mkdir(exist_ok=True)
    page = page_of(index, path, "a bus", model)
    links = {found["href"] for found in page.named("a")}
    assert (link in links) if link else not links
    assert "jane" not in path.read_text("utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    library = pytest.importorskip("playwright.sync_api", reason="it drives the browser")
    with library.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("mode", ["disc", "gen"])
def test_axe_finds_nothing_to_mend(
    home: Path, create: Create, model: FakeEmbedder, browser: Any, mode: Any
) -> None:
    library = pytest.importorskip("axe_playwright_python.sync_playwright", reason="it brings axe")
    axe = library.Axe()
    index = create(home / "photos", "both")
    (home / "photos" / "gone.png").write_bytes((home / "photos/sub/a b#1.png").read_bytes() + b"0")
    build_index(index, home / "photos", model)
    (home / "photos" / "gone.png").unlink()
    page_of(index, home / "page.html", home / "photos" / "clip.mp4", model, mode)
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        tab = context.new_page()
        tab.goto((home / "page.html").as_uri())
        found = axe.run(tab)
        assert found.violations_count == 0, found.generate_report()
        assert len(found.response["passes"]) > 10  # it looked
        context.close()
