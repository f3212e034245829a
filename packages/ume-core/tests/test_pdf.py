"""Pages of PDFs that Pillow and PDFium wrote."""

from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from ume_core import Image, InvalidItem, Limits, MediaError, Policy, PolicyViolation, UmeError
from ume_core.fetch import Access, media_warning
from ume_core.items import as_item
from ume_core.media import open_image
from ume_core.pdf import count_pages, draw_page, page_name, split_page

pdfium: Any = pytest.importorskip("pypdfium2", reason="pypdfium2 draws PDFs")
COLOURS = ("red", "lime", "blue")


def pages(*colours: str) -> bytes:
    """A PDF of one colour a page, 3 x 4 inches, as Pillow writes it."""
    buffer = io.BytesIO()
    images = [PILImage.new("RGB", (216, 288), colour) for colour in colours]
    images[0].save(buffer, "PDF", save_all=True, append_images=images[1:])
    return buffer.getvalue()


def sized(*box: float) -> bytes:
    """A PDF with one page of this MediaBox, as PDFium writes it."""
    document = pdfium.PdfDocument.new()
    document.new_page(100, 100).set_mediabox(*box)
    buffer = io.BytesIO()
    document.save(buffer)
    document.close()
    return buffer.getvalue()


def encrypted() -> bytes:
    """A PDF that asks for a password nobody has (ISO 32000-1, 7.6.3: the standard handler)."""
    data = pages("red")
    root = re.findall(rb"/Root (\d+ \d+ R)", data)[-1]
    before = re.findall(rb"startxref\s+(\d+)", data)[-1]
    text = b"<" + b"41" * 32 + b">"
    handler = b"9 0 obj<</Filter/Standard/V 1/R 2/O%s/U%s/P -4>>endobj\n" % (text, text)
    table = b"xref\n9 1\n%010d 00000 n \ntrailer" % len(data)
    trailer = b"<</Size 10/Root %s/Prev %s/Encrypt 9 0 R/ID[%s%s]>>" % (root, before, text, text)
    end = b"\nstartxref\n%d\n%%%%EOF" % (len(data) + len(handler))
    return data + handler + table + trailer + end


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a b#1.PDF"
    path.write_bytes(pages(*COLOURS))
    return path


def test_a_page_is_named_as_browsers_name_it() -> None:
    assert page_name("doc.pdf", 3) == "doc.pdf#page=3"
    assert split_page("doc.pdf#page=3") == ("doc.pdf", 3)
    for name in ("doc.pdf", "a.png#page=3", "doc.pdf#page=0", "doc.pdf#page=x", "doc.pdf#page=1 "):
        assert split_page(name) == (name, None)


@pytest.mark.parametrize("spelling", [str, Path, "file://{}".format])
def test_a_page_is_a_picture_at_150_dpi(file: Path, spelling: Any) -> None:
    for number, colour in enumerate(COLOURS, 1):
        (part,) = as_item(Image(spelling(page_name(str(file), number)))).parts
        assert isinstance(part, Image)
        picture = open_image(part, Access())
        assert picture.size == (451, 600) and picture.mode == "RGB"
        wanted = PILImage.new("RGB", (1, 1), colour).getpixel((0, 0))
        found = picture.getpixel((200, 300))
        assert isinstance(found, tuple) and isinstance(wanted, tuple)
        assert all(abs(a - b) < 8 for a, b in zip(found, wanted, strict=True))  # Pillow wrote JPEG


def test_a_file_of_one_page_needs_no_number_and_of_several_says_how(file: Path) -> None:
    with pytest.raises(InvalidItem, match=r"3 pages.*#page=1"):
        open_image(Image(file), Access())
    assert isinstance(as_item(file).parts[0], Image)
    file.write_bytes(pages("red"))
    assert open_image(Image(file), Access()).size == (451, 600)


@pytest.mark.parametrize(
    ("data", "page", "message"),
    [
        (pages("red"), 2, "x.pdf has 1 page, and no page 2"),
        (encrypted(), 1, "x.pdf is encrypted. Fix: save it without a password"),
        (b"%PDF-1.4 nonsense", 1, "x.pdf is not a PDF that PDFium can read"),
        (pages("red").replace(b"/Count 1", b"/Count 3"), 2, "page 2 of x.pdf cannot be drawn"),
        (sized(0, 0, 1e9, 1), 1, "page 1 of x.pdf is 1e.09 x 1 points, a shape that cannot"),
    ],
    ids=["no such page", "encrypted", "broken", "broken page", "thread"],
)
def test_what_cannot_be_drawn_names_file_and_page(data: bytes, page: int, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        draw_page(data, page, "x.pdf", Limits())


@pytest.mark.parametrize("box", [(0, 0, 1e9, 1e9), (0, 0, 14400, 14400), (-5e8, -5, 5e8, 1e9)])
def test_a_huge_page_is_drawn_small(box: tuple[float, ...]) -> None:
    for limits in (Limits(), Limits(image_pixels=10_000)):
        most = min(2_359_296, limits.image_pixels)
        assert len(draw_page(sized(*box), 1, "x.pdf", limits)) <= 3 * most + 30


def test_too_many_pages_are_refused_with_the_limit() -> None:
    assert count_pages(pages(*COLOURS), "x.pdf", Limits(pdf_pages=3)) == 3
    with pytest.raises(UmeError, match=r"x.pdf has 3 pages, more than limits.pdf_pages \(2\)"):
        count_pages(pages(*COLOURS), "x.pdf", Limits(pdf_pages=2))


def test_pdfs_are_drawn_from_allowed_files_only(file: Path, tmp_path: Path) -> None:
    name = page_name(str(file), 1)
    with pytest.raises(PolicyViolation):
        open_image(Image(name), Access(Policy.closed()))
    with pytest.raises(PolicyViolation):
        open_image(Image(name), Access(Policy(roots=(tmp_path / "other",))))
    with pytest.raises(MediaError, match="a PDF, whose pages are drawn from files only"):
        open_image(Image(file.read_bytes()), Access())
    assert "pass Image" in (media_warning(name, Policy()) or "")
    assert media_warning(name, Policy.closed()) is None


def test_threads_draw_one_after_the_other(file: Path) -> None:
    data = file.read_bytes()
    once = [draw_page(data, n, "x.pdf", Limits()) for n in (1, 2, 3)]
    with ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda n: draw_page(data, n, "x.pdf", Limits()), [1, 2, 3] * 8))
    assert again == once * 8
