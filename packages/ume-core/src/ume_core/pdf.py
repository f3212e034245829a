"""Pages of PDF files as pictures. PDFium draws them: pypdfium2, the extra `pdf`.

A page is named as browsers name it, by the fragment of RFC 8118: `doc.pdf#page=3` is the third.
Only files that the policy lets items name are drawn; PDFs among bytes, data: and http(s) URLs are
refused, so that no server hands strangers' PDFs to a parser of that size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from typing import Any

from ume_core.errors import EngineUnavailable, InvalidItem, LimitExceeded, MediaError
from ume_core.limits import Limits

SUFFIX = ".pdf"
INSTALL = "pip install pypdfium2"
_PAGE = re.compile(r"(.*\.pdf)#page=([1-9]\d{0,8})", re.IGNORECASE | re.DOTALL)
# Pixels a point (1/72 inch) becomes: 150 dpi, at which a letter page has 2.1 million pixels.
_SCALE = 150 / 72
# The most pixels that the published model sees of a picture; larger pages are drawn smaller.
_PIXELS = 2_359_296
_ENCRYPTED = 4  # PDFium's FPDF_ERR_PASSWORD
_PDFIUM = Lock()  # PDFium is not thread-safe, not even between documents


def can_draw() -> bool:
    """Whether pypdfium2 is installed."""
    return find_spec("pypdfium2") is not None


def page_name(file: str, page: int) -> str:
    """What a page is called, such as `doc.pdf#page=3`."""
    return f"{file}#page={page}"


def split_page(name: str) -> tuple[str, int | None]:
    """The file, and the page counted from 1, of a name; None where it names no page of a PDF."""
    found = _PAGE.fullmatch(name)
    return (name, None) if found is None else (found[1], int(found[2]))


def is_pdf(name: str) -> bool:
    """Whether a name is a PDF's or that of a page of one."""
    return split_page(name)[0].lower().endswith(SUFFIX)


def count_pages(data: bytes, name: str, limits: Limits) -> int:
    """The number of pages of a PDF.

    Args:
        data: the file's bytes.
        name: for messages.
        limits: `pdf_pages` bounds the number.

    Raises:
        MediaError: it is encrypted or damaged. LimitExceeded: it has too many pages.
        EngineUnavailable: pypdfium2 is not installed.
    """
    with _opened(data, name) as document:
        count = len(document)
    if count > limits.pdf_pages:
        raise LimitExceeded(
            f"{name} has {count:,} pages, more than limits.pdf_pages ({limits.pdf_pages:,})",
            fix="split it, or raise the limit",
        )
    return count


def draw_page(data: bytes, page: int | None, name: str, limits: Limits) -> bytes:
    """A page at 150 dpi over white, or smaller if it is large, with its annotations and forms.

    Args:
        data: the file's bytes.
        page: counted from 1; None where the file is to have one only.
        name: of the file, for messages.
        limits: `image_pixels` bounds the picture, together with the most that models see.

    Returns:
        a PPM file (8-bit RGB).

    Raises:
        MediaError: the file is encrypted or damaged, there is no such page, or its size is none.
        InvalidItem: no page is named, and there are several.
        EngineUnavailable: pypdfium2 is not installed.
    """
    with _opened(data, name) as document:
        count = len(document)
        if page is None and count > 1:
            raise InvalidItem(
                f"{name} has {count:,} pages", fix=f"name one, such as {page_name(name, 1)}"
            )
        number = page or 1
        if number > count:
            pages = "1 page" if count == 1 else f"{count:,} pages"
            raise MediaError(f"{name} has {pages}, and no page {number}", fix="name another page")
        where = f"page {number} of {name}"
        try:
            opened = document[number - 1]
            scale = _scale(opened.get_size(), where, limits)
            bitmap = opened.render(scale=scale, rev_byteorder=True)
        except MediaError:
            raise
        except MemoryError as error:
            raise LimitExceeded(f"{where} does not fit in memory", fix="shrink it") from error
        except Exception as error:
            raise MediaError(f"{where} cannot be drawn: {error}", fix="save it anew") from error
        head = b"P6 %d %d 255\n" % (bitmap.width, bitmap.height)
        return head + bitmap.to_numpy().tobytes()


def _scale(size: tuple[float, float], where: str, limits: Limits) -> float:
    """Pixels for a point of a page of this (width, height), before anything is allocated."""
    width, height = size
    most = min(_PIXELS, limits.image_pixels)
    if not (math.isfinite(width * height) and width > 0 and height > 0):
        raise MediaError(f"{where} is {width:g} x {height:g} points", fix="save it anew")
    scale = min(_SCALE, math.sqrt(most / (width * height)))
    # PDFium rounds up, which a page of extreme shape turns into more pixels than were meant.
    while math.ceil(width * scale) * math.ceil(height * scale) > most:
        if math.ceil(width * scale) > most or math.ceil(height * scale) > most:
            raise MediaError(
                f"{where} is {width:g} x {height:g} points, a shape that cannot be drawn",
                fix="crop it",
            )
        scale *= 0.999
    return scale


@contextmanager
def _opened(data: bytes, name: str) -> Generator[Any]:
    """The document, for this thread alone; closed here, since finalizers run in any thread."""
    with _PDFIUM:
        try:
            pdfium: Any = import_module("pypdfium2")
        except ImportError as error:
            raise EngineUnavailable(
                f"{name} is a PDF, which needs pypdfium2", fix=INSTALL
            ) from error
        try:
            document = pdfium.PdfDocument(data)
        except pdfium.PdfiumError as error:
            if getattr(error, "err_code", None) == _ENCRYPTED:
                raise MediaError(
                    f"{name} is encrypted", fix="save it without a password"
                ) from error
            raise MediaError(
                f"{name} is not a PDF that PDFium can read", fix="save it anew"
            ) from error
        try:
            document.init_forms()  # so that what was filled in is drawn
            yield document
        finally:
            document.close()
