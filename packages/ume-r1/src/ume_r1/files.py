"""Which files can be embedded, by their suffix, and what a file becomes as an item."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePath

from ume_core.errors import InvalidItem, MediaError
from ume_core.fetch import check_bytes
from ume_core.items import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Image, Item, Text, Video, part_from_path
from ume_core.limits import Limits
from ume_core.pdf import INSTALL, SUFFIX, can_draw, count_pages, page_name, split_page
from ume_r1.output import printable

HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
TEXT_SUFFIXES = frozenset((".txt", ".md"))
_UTF8_BYTES = 4  # most bytes one character takes (RFC 3629)

# Files a person expects to find again, but which no decoder here reads: suffixes and the fix.
_UNREAD: tuple[tuple[str, str], ...] = (
    (".heic .heif .hif", "pip install pillow-heif, and run again"),
    (".jxl .jp2 .j2k .psd .xcf .tga .ico", "convert them to JPEG or PNG"),
    (".cr2 .cr3 .nef .arw .dng .orf .rw2 .raf .pef .srw", "export them as JPEG"),
    (".svg .svgz .ai .eps .ps", "render them to PNG"),
    (SUFFIX, f"{INSTALL}, and run again"),
    (".djvu", "render their pages to PNG, or save their text as .txt"),
    (
        ".wmv .asf .flv .f4v .3gp .3g2 .ts .mts .m2ts .vob .rm .rmvb .mxf .divx",
        "convert them to MP4 (H.264)",
    ),
    (
        ".doc .docx .odt .rtf .epub .ppt .pptx .odp .xls .xlsx .ods .html .htm .rst .tex",
        "save their text as .txt or .md",
    ),
    (".parquet", "to index their rows, name them alone, with --ray (the plugin ume-ray)"),
)
UNREAD_SUFFIXES = {suffix: fix for suffixes, fix in _UNREAD for suffix in suffixes.split()}


def counted(number: int, noun: str) -> str:
    """A number of things, such as `1 item` or `3 items`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def left_out(unread: Counter[str]) -> tuple[list[str], bool]:
    """What to say of files that are not embedded.

    Args:
        unread: suffix -> how many.

    Returns:
        lines, with fixes; and whether a person may miss some of them.
    """
    known = sorted(suffix for suffix in unread if suffix in UNREAD_SUFFIXES)
    lines = [
        f"left out {counted(unread[s], f'{s} file')}. Fix: {UNREAD_SUFFIXES[s]}" for s in known
    ]
    other = Counter({s: n for s, n in unread.items() if s not in UNREAD_SUFFIXES})
    if other:
        kinds = ", ".join(f"{printable(suffix)}: {n}" for suffix, n in other.most_common(5))
        lines.append(f"left out {counted(other.total(), 'file')} of other kinds ({kinds})")
    return lines, bool(known)


@lru_cache(maxsize=1)
def _reads_heif() -> bool:
    return find_spec("pillow_heif") is not None


@lru_cache(maxsize=1)
def _reads_pdf() -> bool:
    return can_draw()


def lacks(path: PurePath) -> str | None:
    """What is missing for this kind of file to be read, which an extra would read."""
    suffix = path.suffix.lower()
    if suffix in HEIF_SUFFIXES and not _reads_heif():
        return "pillow-heif"
    return "pypdfium2" if suffix == SUFFIX and not _reads_pdf() else None


def kind_of(path: PurePath) -> str | None:
    """What a file is, told by its suffix.

    Returns:
        `image`, `video` or `text`; `pdf` for a file whose pages are images; None for a file that
        is not embedded.
    """
    file, page = split_page(str(path))
    if page is not None:
        return "image" if kind_of(PurePath(file)) == "pdf" else None
    suffix = path.suffix.lower()
    if lacks(path) is not None:
        return None
    if suffix == SUFFIX:
        return "pdf"
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return "text" if suffix in TEXT_SUFFIXES else None


def pages_of(path: Path, limits: Limits) -> list[str]:
    """The names of a PDF's pages, each with the file's before it.

    Raises:
        UmeError: it cannot be read, is encrypted or damaged, or has too many pages.
    """
    data = _read(path, lambda size: check_bytes(size, str(path), limits))
    return [page_name(str(path), n + 1) for n in range(count_pages(data, str(path), limits))]


def item_from_file(path: Path, limits: Limits) -> Item:
    """A picture, page, clip or text file as an item; all but texts are not opened yet.

    Raises:
        MediaError: the text file cannot be read, or is not UTF-8.
        InvalidItem: the suffix is none of a picture, clip or text; or the text is empty.
    """
    if kind_of(path) != "text":
        try:
            return Item((part_from_path(path),))
        except InvalidItem as error:
            fix = UNREAD_SUFFIXES.get(path.suffix.lower())
            fix = fix or "give it the suffix of its kind, such as .png, .mp4 or .txt"
            raise InvalidItem(error.cause, fix=fix) from None
    data = _read(path, lambda size: _check_length(size, str(path), limits))
    return item_from_bytes(data, "text", str(path), limits)


def _read(path: Path, check: Callable[[int], None]) -> bytes:
    """The bytes of a regular file whose size `check` does not refuse."""
    try:
        if path.exists() and not path.is_file():
            raise MediaError(f"{path} is not a regular file", fix="name a file")
        check(path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror}", fix="check the path") from error


def item_from_bytes(data: bytes, kind: str, name: str, limits: Limits) -> Item:
    """The content of a file as an item.

    Args:
        data: all bytes of the file.
        kind: what `kind_of` says of it.
        name: for error messages.
        limits: `text_chars` bounds a text; the embedder checks pictures and clips.

    Raises:
        MediaError: a text is too long or not UTF-8.
        InvalidItem: a text is empty.
    """
    if kind == "image":
        return Item((Image(data),))
    if kind == "video":
        return Item((Video(data),))
    _check_length(len(data), name, limits)
    try:
        # "-sig": editors on Windows put a byte order mark first, which is no part of the text.
        with io.TextIOWrapper(io.BytesIO(data), "utf-8-sig") as reader:  # all line ends become \n
            return Item((Text(reader.read()),))
    except UnicodeDecodeError as error:
        raise MediaError(f"{name} is not UTF-8 text", fix="save it as UTF-8") from error


def _check_length(size: int, name: str, limits: Limits) -> None:
    if size > _UTF8_BYTES * limits.text_chars:
        raise MediaError(f"{name} is too long a text ({size:,} bytes)", fix="split it")
