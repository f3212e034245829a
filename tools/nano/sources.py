"""The packages ume-nano is made from: names, pinned versions and licences, and their download."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """One npm package.

    Attributes:
        use: `train`, or `test` for art whose share-alike licence must not touch the weights.
    """

    package: str
    version: str
    what: str
    licence: str
    use: str = "train"


SOURCES = (
    Source("@iconify-json/noto", "1.2.9", "colour emoji", "Apache-2.0"),
    Source("@iconify-json/twemoji", "1.2.5", "colour emoji", "CC-BY-4.0"),
    Source("@iconify-json/fluent-emoji", "1.2.7", "shaded emoji", "MIT"),
    Source("@iconify-json/fluent-emoji-flat", "1.2.6", "flat emoji", "MIT"),
    Source("@iconify-json/emojione", "1.2.3", "colour emoji", "CC-BY-4.0"),
    Source("@iconify-json/fxemoji", "1.2.2", "colour emoji", "Apache-2.0"),
    Source("@iconify-json/openmoji", "1.2.29", "outlined emoji", "CC-BY-SA-4.0", "test"),
    Source("@iconify-json/mdi", "1.2.3", "line and solid icons", "Apache-2.0"),
    Source("@iconify-json/game-icons", "1.2.4", "solid icons", "CC-BY-3.0"),
    Source("@iconify-json/flat-color-icons", "1.2.3", "colour icons", "MIT"),
    Source("@tabler/icons", "3.51.0", "line icons with tags", "MIT"),
    Source("lucide-static", "1.62.0", "line icons with tags", "ISC"),
    Source("emojibase-data", "17.0.0", "emoji labels, keywords, subgroups", "MIT"),
    Source("emojilib", "4.0.3", "emoji keywords", "MIT"),
)

# For `tools.nano.wider`: 29,496 icons in place of 12,490. ume-nano is not made from them.
WIDER = (
    Source("@iconify-json/carbon", "1.2.29", "line icons", "Apache-2.0"),
    Source("@iconify-json/fa6-solid", "1.2.4", "solid icons", "CC-BY-4.0"),
    Source("@iconify-json/fluent", "1.2.60", "line and solid icons", "MIT"),
    Source("@iconify-json/healthicons", "1.2.13", "line and solid icons", "MIT"),
    Source("@iconify-json/hugeicons", "1.2.35", "line icons", "MIT"),
    Source("@iconify-json/icon-park-outline", "1.2.4", "line icons", "Apache-2.0"),
    Source("@iconify-json/iconoir", "1.2.11", "line icons", "MIT"),
    Source("@iconify-json/maki", "1.2.5", "map icons", "CC0-1.0"),
    Source("@iconify-json/material-symbols", "1.2.98", "line and solid icons", "Apache-2.0"),
    Source("@iconify-json/mingcute", "1.2.8", "line and solid icons", "Apache-2.0"),
    Source("@iconify-json/ph", "1.2.2", "line and solid icons", "MIT"),
    Source("@iconify-json/solar", "1.2.13", "line and solid icons", "CC-BY-4.0"),
    Source("@iconify-json/temaki", "1.2.6", "map icons", "CC0-1.0"),
)

# emoji art: folder -> style name used in reports
EMOJI_STYLES = {
    "noto": "noto",
    "twemoji": "twemoji",
    "fluent-emoji": "fluent",
    "fluent-emoji-flat": "fluent-flat",
    "emojione": "emojione",
    "fxemoji": "fxemoji",
    "openmoji": "openmoji",
}
UNSEEN_STYLE = "openmoji"


def wider_style(source: Source) -> str:
    """A style's name; Fluent's icons must not be taken for its emoji."""
    return f"{source.package.split('/')[1]}-icons"


def fetch_sources(cache: Path, wider: bool = False) -> Path:
    """Install the packages with npm below `cache`; returns its node_modules. Safe to repeat."""
    wanted = {s.package: s.version for s in SOURCES + (WIDER if wider else ())}
    modules = cache / "node_modules"
    if all(_installed(modules / name) == version for name, version in wanted.items()):
        return modules
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is needed to fetch the art: install Node.js, then run this again")
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "package.json").write_text(json.dumps({"private": True, "dependencies": wanted}))
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(command, cwd=cache, check=True)
    return modules


def icon_set(modules: Path, name: str) -> dict[str, Any]:
    """An iconify set's icons.json."""
    return json.loads((modules / "@iconify-json" / name / "icons.json").read_text("utf-8"))


def _installed(folder: Path) -> str | None:
    path = folder / "package.json"
    return json.loads(path.read_text("utf-8"))["version"] if path.is_file() else None
