"""The search result as one self-contained HTML page: thumbnails, scores, thinking."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

from PIL import Image as PILImage

from ume_core.errors import UmeError
from ume_core.fetch import Access
from ume_core.items import Image, Item, Text, Video
from ume_core.limits import Policy
from ume_core.media import load_video, open_image
from ume_core.results import Record
from ume_r1.files import item_from_file
from ume_r1.index.store import Hit, Index

_SIDE = 240
_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.3rem; } .muted { opacity: .7; font-size: .9rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem;
  padding: 0; list-style: none; }
.card { border: 1px solid var(--line); border-radius: .6rem; overflow: hidden; }
.card img, .text { width: 100%; height: 13rem; object-fit: contain; background: #fff; color: #222; }
.text { overflow: auto; padding: .8rem; box-sizing: border-box; white-space: pre-wrap; }
.card div { padding: .6rem .8rem; overflow-wrap: anywhere; }
.bar { height: .35rem; border-radius: 1rem; background: #3b82f6; margin: .2rem 0 .4rem; }
blockquote { margin: .4rem 0 0; padding-left: .7rem; border-left: 3px solid #3b82f6; }
.query img { max-height: 10rem; border-radius: .4rem; }
"""


def write_page(
    path: Path, query: Item, record: Record, hits: list[Hit], index: Index, mode: str
) -> None:
    """Write the page; all content is escaped, all pictures are inside the file."""
    about = index.description
    folder = Path(about.folder)
    cards = "\n".join(_card(rank, hit, folder, mode) for rank, hit in enumerate(hits, 1))
    thought = _thinking(record.thinking, record.summary) if mode == "gen" else ""
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(_title(query))}</title><style>{_STYLE}</style></head>
<body>
<h1>{escape(_title(query))}</h1>
<section class="query">{_query(query)}{thought}</section>
<p class="muted">The {len(hits)} most similar of {len(index)} items in {escape(about.folder)}
&middot; {escape(about.model)}
&middot; {escape(mode)} vectors &middot; signature {about.signature.digest}</p>
<ol class="grid">
{cards}
</ol>
</body></html>
"""
    path.write_text(page, "utf-8")


def _title(query: Item) -> str:
    names = [m.source.name for m in query.media if isinstance(m.source, Path)]
    return " + ".join([*names, *([query.text.strip()] if query.text.strip() else [])])


def _query(query: Item) -> str:
    shown: list[str] = []
    for part in query.parts:
        if not isinstance(part, Text):
            shown.append(_picture(_thumbnail(part, Access()), "the query"))
    return "".join(shown)


def _card(rank: int, hit: Hit, folder: Path, mode: str) -> str:
    name = str(hit.path.relative_to(folder)) if hit.path.is_relative_to(folder) else str(hit.path)
    thought = _thinking(hit.thinking, hit.summary) if mode == "gen" else ""
    width = max(0.0, min(1.0, hit.score)) * 100
    return f"""<li class="card">{_shown(hit, Access(Policy(roots=(folder,), urls=False)))}<div>
<strong>{rank}. <a href="{escape(hit.path.as_uri())}">{escape(name)}</a></strong>
<span class="muted" title="cosine similarity">cosine {hit.score:.3f}</span>
<div class="bar" style="width:{width:.0f}%;padding:0"></div>
{thought}</div></li>"""


def _thinking(thinking: str, summary: str) -> str:
    if not thinking and not summary:
        return ""
    return (
        f'<blockquote><span class="muted">thinking</span> {escape(thinking)}<br>'
        f'<span class="muted">summary</span> <strong>{escape(summary)}</strong></blockquote>'
    )


def _shown(hit: Hit, access: Access) -> str:
    """The file as a thumbnail, or the beginning of a text."""
    try:
        if hit.kind == "image":
            return _picture(_thumbnail(Image(hit.path), access), hit.path.name)
        if hit.kind == "video":
            return _picture(_thumbnail(Video(hit.path), access), hit.path.name)
        item_from_file(hit.path, access.limits)  # bounded, regular, UTF-8
        return f'<div class="text">{escape(hit.path.read_text("utf-8")[:600])}</div>'
    except (UmeError, OSError, UnicodeDecodeError) as error:
        return f'<div class="text">not readable any more: {escape(str(error))}</div>'


def _picture(url: str, name: str) -> str:
    return f'<img src="{url}" alt="{escape(name)}">'


def _thumbnail(media: Image | Video, access: Access) -> str:
    """A data URL: JPEG for a picture, animated WebP for a clip."""
    buffer = io.BytesIO()
    if isinstance(media, Image):
        small = open_image(media, access)
        small.thumbnail((_SIDE, _SIDE))
        small.save(buffer, "JPEG", quality=82)
        kind = "jpeg"
    else:
        frames = [_small(f) for f in load_video(media, access).images[:24]]
        frames[0].save(
            buffer, "WEBP", save_all=True, append_images=frames[1:], duration=400, loop=0
        )
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _small(image: PILImage.Image) -> PILImage.Image:
    copy = image.copy()
    copy.thumbnail((_SIDE, _SIDE))
    return copy
