"""The search result as one self-contained HTML page: thumbnails, scores, thinking.

Everything shown is inside the file, and everything said in it is escaped. A page may be sent to
somebody else, so it names files by their place in the indexed folder only.
"""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import jinja2
from PIL import Image as PILImage

from ume_core.errors import UmeError
from ume_core.fetch import Access
from ume_core.items import Image, Item, Text, Video
from ume_core.limits import Policy
from ume_core.media import Frames, load_video, open_image
from ume_core.pdf import page_name, split_page
from ume_core.results import Record
from ume_r1.files import item_from_file
from ume_r1.index.folders import is_table
from ume_r1.index.hits import Hit
from ume_r1.index.store import Index

_SIDE = 480  # pixels: twice a card's width, for dense screens
_FRAMES = 24  # of a clip's preview
_TEXT = 600  # characters of a text's preview


@dataclass(frozen=True)
class _Media:
    """A preview.

    Attributes:
        still: data URL of a JPEG; empty for a text.
        clip: data URL of an MP4; empty unless it is a clip.
        text: the beginning of a text, or why nothing is shown.
    """

    still: str = ""
    clip: str = ""
    text: str = ""


@dataclass(frozen=True)
class _Card:
    """One result; `link` is relative to the page, and empty where it would tell too much."""

    hit: Hit
    media: _Media
    alt: str
    link: str
    gone: bool


def write_page(
    path: Path, query: Item, record: Record, hits: list[Hit], index: Index, mode: str
) -> None:
    """Write the page.

    Args:
        path: the file to write.
        query: what was looked for.
        record: the query's record; its thinking is shown in gen mode.
        hits: the results, best first.
        index: what was searched.
        mode: `disc` or `gen`: the vectors that were compared.

    Raises:
        OSError: the disk refuses the file.
    """
    about, folder = index.description, index.folder
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ume_r1.index", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html.jinja").render(
        title=_title(query),
        query=[preview(part, Access()) for part in query.parts if not isinstance(part, Text)],
        record=record,
        gen=mode == "gen",
        cards=[_card(hit, folder, path) for hit in hits],
        total=len(index),
        folder=PurePosixPath(folder).name,
        model=Path(about.model).name if Path(about.model).is_absolute() else about.model,
        mode=mode,
        signature=about.signature.digest,
    )
    path.write_text(page, "utf-8")


def _title(query: Item) -> str:
    names = [m.source.name for m in query.media if isinstance(m.source, Path)]
    return " + ".join([*names, *([query.text.strip()] if query.text.strip() else [])])


def _card(hit: Hit, folder: Path | str, page: Path) -> _Card:
    alt = hit.summary or hit.name
    if isinstance(folder, str) or isinstance(hit.path, str):  # nothing is fetched for a page
        return _Card(hit, _Media(text=_far(folder)), alt, "", False)
    if hit.gone:
        return _Card(hit, _Media(text="This file is not there any more."), alt, "", True)
    return _Card(hit, _shown(hit, hit.path, folder), alt, _link(hit, hit.path, folder, page), False)


def _far(folder: Path | str) -> str:
    """What stands in place of what is not on a disk."""
    return "This is a row of a table." if is_table(folder) else "This file is on an object store."


def _link(hit: Hit, path: Path, folder: Path, page: Path) -> str:
    """The file's address from the page, unless it would name directories outside the folder."""
    parts = Path(os.path.relpath(path, page.resolve().parent)).parts
    down = [part for part in parts if part != ".."]
    inside = [folder.name, *split_page(hit.name)[0].split("/")]
    if down != inside[-len(down) :]:
        return ""
    link = quote("/".join(parts))
    return link if hit.page is None else page_name(link, hit.page)


def _shown(hit: Hit, path: Path, folder: Path) -> _Media:
    access = Access(Policy(roots=(folder,), urls=False))
    try:
        if hit.kind == "image":
            return preview(Image(hit.place), access)
        if hit.kind == "video":
            return preview(Video(path), access)
        text = item_from_file(path, access.limits).text  # bounded, regular, UTF-8
        return _Media(text=text[:_TEXT])
    except (UmeError, OSError):  # its message names the file's place on this machine
        return _Media(text="This file cannot be read any more.")


def preview(media: Image | Video, access: Access) -> _Media:
    """A picture as a JPEG, a clip as a JPEG of its first frame and an MP4."""
    if isinstance(media, Image):
        return _Media(still=_jpeg(_small(open_image(media, access))))
    frames = load_video(media, access)
    return _Media(still=_jpeg(_small(frames.images[0])), clip=_mp4(frames))


def _small(image: PILImage.Image) -> PILImage.Image:
    copy = image.copy()
    copy.thumbnail((_SIDE, _SIDE))
    return copy


def _jpeg(image: PILImage.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return _data_url("image/jpeg", buffer.getvalue())


def _mp4(frames: Frames) -> str:
    """The first frames as a clip that browsers play: H.264, 4:2:0, even sides."""
    import av

    images = [_small(image) for image in frames.images[:_FRAMES]]
    width, height = (max(2, side - side % 2) for side in images[0].size)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=max(1, round(frames.sample_fps)))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in images:
            frame = av.VideoFrame.from_image(image.resize((width, height)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return _data_url("video/mp4", buffer.getvalue())


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
