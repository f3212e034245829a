"""Bounds that are checked before memory, time or trust is spent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast


@dataclass(frozen=True)
class Limits:
    """Sizes an item may have; every excess is a `LimitExceeded` that names the limit.

    Attributes:
        image_pixels: width x height of a source image, before resizing. The default equals a
            100-megapixel camera and stops decompression bombs.
        file_bytes: size of one image or video file, on disk or downloaded.
        video_frames: frames the model sees of one video (upstream's maximum is 768).
        video_pixels: source width x height x frames the model sees; the default is 1.5 GB of RGB.
        video_seconds: length of a source video that is decoded.
        pdf_pages: pages of a PDF file that is indexed or embedded whole.
        text_chars: characters of one item's text, checked before tokenizing.
        input_tokens: tokens of one prompt, visual tokens included; the checkpoint's context length
            bounds it too.
        new_tokens: tokens gen mode may generate. The published mean is 403; its own limit of 8192
            lets one looping item hold a whole batch.
        url_seconds: time allowed for one download.
        decode_seconds: time allowed for decoding one clip or picture, where `Policy.isolate` has it
            done in another process.
    """

    image_pixels: int = 100_000_000
    file_bytes: int = 512 * 1024 * 1024
    video_frames: int = 768
    video_pixels: int = 500_000_000
    video_seconds: float = 4 * 3600.0
    pdf_pages: int = 10_000
    text_chars: int = 1_000_000
    input_tokens: int = 32_768
    new_tokens: int = 1024
    url_seconds: float = 30.0
    decode_seconds: float = 120.0


@dataclass(frozen=True)
class Policy:
    """Which files and URLs an item may name. The default suits a program that its own user runs.

    Attributes:
        files: whether paths and `file://` URLs may be opened at all.
        roots: if given, only files below one of these directories (symbolic links resolved).
        urls: whether `http(s)://` URLs may be fetched.
        hosts: if given, the only hosts that URLs and redirects may name, by name or address.
        private_networks: whether a URL's host may have a loopback, private or other special
            address. Redirects are checked too.
        isolate: whether clips, and pictures of rare kinds, are decoded in processes of their own,
            so that bytes on which a decoder crashes or hangs cost their item alone
            (`ume_core.media.isolation`). Same pixels.
    """

    files: bool = True
    roots: tuple[Path, ...] | None = None
    urls: bool = True
    hosts: tuple[str, ...] | None = None
    private_networks: bool = False
    isolate: bool = False

    def __post_init__(self) -> None:
        """Accept one root or host alone, and roots as strings."""
        hosts: object = self.hosts
        if isinstance(hosts, str):
            object.__setattr__(self, "hosts", (hosts,))
        roots: object = self.roots
        if isinstance(roots, (str, Path)):
            roots = (roots,)
        if isinstance(roots, (list, tuple)):
            paths = tuple(Path(str(root)) for root in cast("tuple[object, ...]", roots))
            object.__setattr__(self, "roots", paths)

    @classmethod
    def closed(cls) -> Policy:
        """Nothing but data in the request itself: right for a server."""
        return cls(files=False, urls=False)
