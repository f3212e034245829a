"""The search page, in the browser that Debian has."""

from __future__ import annotations

import base64
import io
import json
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

import ume_core
from ume_core.embedder import Embedder
from ume_core.items import Image
from ume_core.options import LoadOptions
from ume_core.retrieval import SearchPolicy
from ume_r1.index import Description, Index, build_index, find
from ume_server.search.routes import SearchPage
from ume_server.settings import SERVER_LIMITS, Settings
from ume_server.testing import KEY, Running, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "<img src=x onerror=alert(1)>.png"
SHOT = os.environ.get("UME_SCREENSHOT")  # where to write the README's picture


@pytest.fixture(scope="module")
def page(model: Embedder, gallery: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchPage:
    folder, directory = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("i") / "index"
    (folder / "animals").mkdir()
    for name in ("dog", "cat", "camel", "elephant", "crocodile"):
        shutil.copy(gallery / f"{name}.png", folder / "animals")
    for name in ("bus", "bicycle", "banana", "bread", "carrot", "camera", "castle"):
        shutil.copy(gallery / f"{name}.png", folder)
    shutil.copy(gallery / "dog-moving-left.mp4", folder)
    shutil.copy(gallery / "crown.png", folder / EVIL)
    with PILImage.open(gallery / "sun.png") as sun, PILImage.open(gallery / "pizza.png") as pizza:
        white = PILImage.new("RGB", (300, 400), "white")
        white.paste(pizza.convert("RGB").resize((200, 200)), (50, 100))
        white.save(folder / "paper.pdf", save_all=True, append_images=[sun.convert("RGB")])
    (folder / "note.txt").write_text("<b>a note</b> about a dog. " * 20, "utf-8")
    options = LoadOptions(device="cpu", dtype="float32")
    about = Description.of(model, folder, "both", name="ume-nano", options=options)
    index = Index.create(directory, about)
    build_index(index, folder, lambda: model, max_new_tokens=12)
    return SearchPage.open(directory)


@pytest.fixture(scope="module")
def searched(model: Embedder, page: SearchPage) -> Iterator[Running]:
    with running(model, Settings(hosts=("localhost",)), page.add) as found:
        yield found


def test_a_full_disk_stops_no_search_and_no_thumbnail(searched: Running) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with searched.client() as client:
            for name in ("carrot.png", "dog-moving-left.mp4"):
                small = client.get("/thumbnail", params={"path": name})
                assert small.headers["content-type"] == "image/jpeg"
            found = client.post("/search", json={"text": "a dog"})
            assert "event: results" in found.text
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser: Any, searched: Running) -> Iterator[Any]:
    """The page, and nothing said on the console or asked elsewhere."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    opened = context.new_page()
    errors: list[str] = []
    opened.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda e: errors.append(str(e)))
    opened.on("dialog", lambda d: errors.append(d.message))
    asked: list[str] = []
    opened.on("request", lambda r: asked.append(r.url))
    opened.goto(searched.url)
    until(opened, "document.getElementById('about').textContent")
    yield opened
    context.close()
    assert errors == []
    assert all(url.startswith((searched.url, "data:", "blob:")) for url in asked)


def until(tab: Any, true: str) -> None:
    """Wait for a condition; Playwright's own way of it is what the page's CSP forbids."""
    end = time.monotonic() + 10
    while not tab.evaluate(true):
        assert time.monotonic() < end, (true, tab.inner_text("main")[:500])
        tab.wait_for_timeout(20)


def names(tab: Any) -> list[str]:
    until(
        tab,
        "!document.getElementById('results').hasAttribute('aria-busy')"
        " && document.getElementById('status').textContent.endsWith('.')",
    )
    return [c.get_attribute("data-name") for c in tab.query_selector_all(".card")]


def ask(searched: Running, **body: Any) -> dict[str, Any]:
    with searched.client() as client:
        answer = client.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return json.loads(data[-1])


def test_results_are_those_of_the_index(
    searched: Running, page: SearchPage, model: Embedder, gallery: Path
) -> None:
    data = (gallery / "dog.png").read_bytes()
    vector = model.embed([Image(data)]).disc
    assert vector is not None
    index = page.index
    expected = [(h.name, round(float(h.score), 4)) for h in index.search(vector[0], "disc", 24)]
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    found = ask(searched, image=url)["results"]
    assert expected[0][0] == "animals/dog.png"
    assert [h["name"] for h in found] == [name for name, _ in expected]
    np.testing.assert_allclose([h["score"] for h in found], [s for _, s in expected], atol=2e-4)
    assert [h["name"] for h in ask(searched, like="animals/dog.png")["results"]] == [
        name for name, _ in expected
    ]


def test_a_page_of_a_pdf_is_found_and_more_like_it(searched: Running, gallery: Path) -> None:
    url = f"data:image/png;base64,{base64.b64encode((gallery / 'sun.png').read_bytes()).decode()}"
    first = ask(searched, image=url)["results"][0]
    assert (first["name"], first["kind"], first["gone"]) == ("paper.pdf#page=2", "image", False)
    first = ask(searched, like="paper.pdf#page=1")["results"][0]
    assert first["name"] == "paper.pdf#page=1" and first["score"] > 0.999


def test_filters_and_the_threshold_narrow_it(searched: Running) -> None:
    kinds = {h["kind"] for h in ask(searched, text="a dog", kind="video")["results"]}
    assert kinds == {"video"}
    inside = ask(searched, text="a dog", under="animals")["results"]
    assert len(inside) == 5 and all(h["name"].startswith("animals/") for h in inside)
    every = ask(searched, text="a dog")["results"]
    least = every[2]["score"]
    some = ask(searched, text="a dog", threshold=least)
    assert 1 <= len(some["results"]) <= 4 and some["left_out"] > 0
    assert all(h["score"] >= least for h in some["results"])
    assert ask(searched, text="a dog", under="animals' OR '1'='1")["results"] == []


def test_policies_decide_as_in_the_library(
    searched: Running, page: SearchPage, model: Embedder
) -> None:
    policies = {
        "fused": (SearchPolicy("fused", weight=0.3, max_new_tokens=256), {"weight": 0.3}),
        "sure": (SearchPolicy("routed", threshold=0.0), {"margin": 0.0}),
        "unsure": (SearchPolicy("routed", threshold=2.0, max_new_tokens=256), {"margin": 2.0}),
    }
    for name, (policy, fields) in policies.items():
        expected = find(page.index, model, "a dog", policy, 24)
        found = ask(searched, text="a dog", mode=policy.kind, **fields)
        assert (found["thinking"] == "") == (name == "sure")
        assert [h["name"] for h in found["results"]] == [h.name for h in expected.hits]
        np.testing.assert_allclose(
            [h["score"] for h in found["results"]], [h.score for h in expected.hits], atol=2e-4
        )
    with searched.client() as client:
        answer = client.post("/search", json={"text": "a", "mode": "routed"})
    assert answer.status_code == 400 and "margin" in answer.text


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "/etc/passwd",
        "animals",
        "",
        "nothing.png",
        "animals/../bus.png",
        "paper.pdf",
        "paper.pdf#page=3",
    ],
)
def test_only_names_of_the_index_are_files(searched: Running, name: str) -> None:
    with searched.client() as client:
        assert client.get("/thumbnail", params={"path": name}).status_code == 404
        assert client.post("/search", json={"like": name}).status_code == 400


def test_thumbnails_are_encoded_anew(searched: Running) -> None:
    with searched.client() as client:
        for name in ("animals/dog.png", "dog-moving-left.mp4", "paper.pdf#page=2"):
            answer = client.get("/thumbnail", params={"path": name})
            assert answer.headers["content-type"] == "image/jpeg"
            with PILImage.open(io.BytesIO(answer.content)) as shown:
                assert shown.format == "JPEG" and max(shown.size) <= 480


def test_other_sites_pages_may_not_ask(searched: Running) -> None:
    with searched.client() as client:
        for site in ("cross-site", "same-site"):
            assert client.get("/about", headers={"sec-fetch-site": site}).status_code == 403
        for site in ("same-origin", "none"):
            assert client.get("/about", headers={"sec-fetch-site": site}).status_code == 200


def test_with_keys_the_browser_asks_for_one(model: Embedder, page: SearchPage) -> None:
    import httpx

    with running(model, Settings(keys=(KEY,)), SearchPage(page.index).add) as found:
        for path in ("/", "/page.js", "/about", "/thumbnail?path=bus.png"):
            answer = httpx.get(found.url + path)
            assert answer.status_code == 401 and answer.headers["www-authenticate"]
            assert httpx.get(found.url + path, auth=("", KEY)).status_code == 200
            assert httpx.get(found.url + path, auth=(KEY, "")).status_code == 401


def test_words_are_searched_and_more_like_one_found(tab: Any) -> None:
    tab.fill("#text", "a dog")
    tab.keyboard.press("Enter")
    found = names(tab)
    assert "animals/dog.png" in found[:3] and len(found) == 17
    assert EVIL in found  # its markup is shown as text: no dialog, no element
    assert tab.query_selector(".card h2 img") is None
    tab.click('[data-name="bus.png"] button')
    until(tab, "document.querySelector('.card')?.dataset.name === 'bus.png'")
    assert names(tab)[0] == "bus.png"
    if SHOT:
        tab.fill("#text", "a dog")
        tab.keyboard.press("Enter")
        names(tab)
        tab.wait_for_load_state("networkidle")
        tab.screenshot(path=SHOT)


def test_a_picture_is_chosen_dropped_and_pasted(tab: Any, gallery: Path) -> None:
    tab.set_input_files("#file", gallery / "castle.png")
    tab.wait_for_selector(".card")
    assert names(tab)[0] == "castle.png"
    assert tab.is_visible("#preview")
    data = base64.b64encode((gallery / "bread.png").read_bytes()).decode()
    for event, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        tab.click("#clear")
        tab.evaluate(
            """([data, event, holder]) => {
              const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
              const files = new DataTransfer();
              files.items.add(new File([bytes], "b.png", {type: "image/png"}));
              const made = new Event(event, {bubbles: true, cancelable: true});
              made[holder] = files;
              document.dispatchEvent(made);
            }""",
            [data, event, holder],
        )
        until(tab, "document.querySelector('.card')?.dataset.name === 'bread.png'")
    tab.fill("#text", "in red")
    tab.keyboard.press("Enter")
    assert len(names(tab)) == 17


def test_gen_shows_its_thinking(tab: Any) -> None:
    tab.select_option("#mode", "gen")
    tab.fill("#text", "a dog")
    tab.keyboard.press("Enter")
    until(tab, "document.getElementById('thinking').textContent.length > 3")
    assert len(names(tab)) == 17 and tab.is_visible("#thought")


def test_it_works_from_the_keyboard_and_says_what_it_is(tab: Any) -> None:
    tab.fill("#text", "a dog")
    tab.keyboard.press("Enter")
    names(tab)
    reached = set[str]()
    tab.focus("#text")
    for _ in range(14):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate(
            "document.activeElement.id || document.activeElement.getAttribute('aria-label') || ''"
        ))  # fmt: skip
    assert {"file", "mode", "kind", "under", "threshold"} <= reached
    assert any(name.startswith("More like ") for name in reached)
    unnamed = tab.evaluate(
        """[...document.querySelectorAll("input, select, button, img, video, meter")].filter(e =>
          !(e.labels && e.labels.length) && !e.getAttribute("aria-label") && !e.alt
          && !e.textContent.trim()).map(e => e.outerHTML)"""
    )
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_mend(
    browser: Any, searched: Running, gallery: Path, scheme: str
) -> None:
    library = pytest.importorskip("axe_playwright_python.sync_playwright", reason="it brings axe")
    axe = library.Axe()
    context = browser.new_context(viewport={"width": 1100, "height": 800}, color_scheme=scheme)
    tab = context.new_page()

    def check() -> None:
        found = axe.run(tab)
        assert found.violations_count == 0, found.generate_report()
        assert len(found.response["passes"]) > 10  # it looked

    tab.goto(searched.url)
    until(tab, "document.getElementById('about').textContent")
    check()
    tab.fill("#text", "a dog")
    tab.keyboard.press("Enter")
    assert "note.txt" in names(tab)
    check()
    tab.set_input_files("#file", gallery / "dog-moving-left.mp4")
    tab.select_option("#mode", "gen")
    until(tab, "document.getElementById('thinking').textContent.length > 3")
    names(tab)
    check()
    context.close()


def test_it_fits_a_phone_and_follows_dark_mode(browser: Any, searched: Running) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 640}, color_scheme="dark")
    tab = context.new_page()
    tab.goto(searched.url)
    tab.fill("#text", "a dog")
    tab.keyboard.press("Enter")
    names(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == "rgb(22, 24, 28)"
    context.close()


def test_an_index_of_another_model_is_refused(page: SearchPage) -> None:
    options: dict[str, Any] = {"limits": SERVER_LIMITS, "thinking": "short"}
    with pytest.raises(ume_core.SignatureMismatch, match="Fix: "):
        page.load_model(None, "auto", options)
