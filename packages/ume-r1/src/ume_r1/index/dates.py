"""The date that a file is found by: when a picture was taken, else when the file was changed."""

from __future__ import annotations

import io
import re
from datetime import datetime, timezone

from PIL import Image as PILImage

from ume_core.errors import InvalidOption

# Tags of EXIF 2.32: DateTimeOriginal in the Exif IFD, DateTime in the first.
_EXIF_IFD, _TAKEN, _CHANGED = 0x8769, 0x9003, 0x0132
_EXIF = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)")
_ASKED = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?")
_YEARS = range(1826, 9999)  # there are no older photographs; cameras without a clock write zeros


def date_of(kind: str, data: bytes, mtime_ns: int) -> str:
    """A file's date, such as `2026-05-31T17:45:00`.

    Args:
        kind: `image`, `video` or `text`.
        data: all bytes of the file.
        mtime_ns: time of its last change, nanoseconds since 1970; negative where unknown.

    Returns:
        what a camera wrote, in its own time, which knows no zone; else the file's, in UTC; empty if
        neither is known.
    """
    taken = _taken(data) if kind == "image" else ""
    if taken or mtime_ns < 0:
        return taken
    changed = datetime.fromtimestamp(mtime_ns // 1_000_000_000, timezone.utc)
    return changed.strftime("%Y-%m-%dT%H:%M:%S")


def _taken(data: bytes) -> str:
    try:
        with PILImage.open(io.BytesIO(data)) as image:
            exif = image.getexif()
            values = (exif.get_ifd(_EXIF_IFD).get(_TAKEN), exif.get(_CHANGED))
    except Exception:  # a stranger's metadata may raise anything
        return ""
    for value in values:
        found = _EXIF.match(value) if isinstance(value, str) else None
        if found and int(found[1]) in _YEARS:
            year, month, day, hour, minute, second = found.groups()
            return f"{year}-{month}-{day}T{hour}:{minute}:{second}"
    return ""


def check_date(text: str | None, name: str) -> str | None:
    """A date or the beginning of one: `2026`, `2026-05`, `2026-05-31`, `2026-05-31T17`.

    Raises:
        InvalidOption: it is none.
    """
    if text is not None and not _ASKED.fullmatch(text):
        raise InvalidOption(f"{name} {text!r} is no date", fix="write 2026, 2026-05 or 2026-05-31")
    return text
