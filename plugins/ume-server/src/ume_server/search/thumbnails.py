"""Pictures of an index, small and encoded anew: no byte of a file reaches a browser as it is."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image as PILImage

from ume_core.fetch import Access
from ume_core.items import Image, Video
from ume_core.limits import Limits, Policy
from ume_core.media import load_video, open_image
from ume_core.pdf import split_page

_SIDE = 480  # pixels: twice a card's width, for dense screens
_MOST_BYTES = 64 * 1024 * 1024


class Thumbnails:
    """JPEGs of an index's files, kept in memory. Thread-safe.

    Attributes:
        access: the folder's files, within the limits.
    """

    def __init__(self, roots: tuple[Path, ...], limits: Limits) -> None:
        self.access = Access(Policy(roots=roots, urls=False, isolate=True), limits)
        self._kept: OrderedDict[tuple[Path, int, int], bytes] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()

    def of(self, path: Path, kind: str) -> bytes:
        """A picture's, a page's (`doc.pdf#page=3`), or that of a clip's first frame.

        Raises:
            UmeError: it cannot be read. OSError: it is not there.
        """
        status = Path(split_page(str(path))[0]).stat()
        key = path, status.st_mtime_ns, status.st_size
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = _jpeg(self._shown(path, kind))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += len(made)
            while self._bytes > _MOST_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return made

    def _shown(self, path: Path, kind: str) -> PILImage.Image:
        if kind == "video":
            return load_video(Video(path, nframes=2), self.access).images[0]
        return open_image(Image(path), self.access)


def _jpeg(image: PILImage.Image) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=82)
    return out.getvalue()
