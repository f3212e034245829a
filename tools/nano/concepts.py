"""Concepts, their words and pictures, and which of them training may see.

Unseen concepts are whole emoji subgroups (instruments, insects, ships …), so that no near-twin of a
test picture is trained on. Their words are also kept out of the icon sets, the training texts and
the tokenizer's corpus.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.nano.sources import EMOJI_STYLES, WIDER, icon_set, wider_style

UNSEEN_SUBGROUPS = frozenset(
    "musical-instrument food-sweet transport-water animal-bug animal-marine plant-flower tool"
    " dishware place-religious science mail face-tongue transport-air monkey-face".split()
)
_SMALL_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "at",
        "by",
        "for",
        "from",
        "in",
        "into",
        "not",
        "of",
        "off",
        "on",
        "or",
        "the",
        "to",
        "up",
        "with",
    ]
)
# Names of drawing variants, not of what is drawn.
_VARIANTS = frozenset("outline variant filled thin alt box".split())
# How the wider sets name theirs, sizes in pixels among them.
_WIDER_VARIANTS = _VARIANTS | frozenset(
    "rounded sharp bold duotone fill light regular linear broken line solid negative color"
    " 11 15 16 20 24 28 32 48 24px".split()
)


@dataclass
class Concept:
    """Something with a name and pictures.

    Attributes:
        label: its name.
        keywords: words about it.
        topic: its subgroup, in words.
        kind: `emoji` or `icon`.
        unseen: held out from training.
        svg: picture per style, as SVG text.
    """

    label: str
    keywords: list[str]
    topic: str
    kind: str
    unseen: bool = False
    svg: dict[str, str] = field(default_factory=dict[str, str])


def load_concepts(modules: Path, wider: bool = False) -> list[Concept]:
    """All emoji concepts, then all icon concepts that share no word with an unseen one.

    Keywords of seen concepts lose those words too.
    """
    emoji = _emoji(modules)
    held = unseen_words(emoji)
    icons = [c for c in _icons(modules, wider) if not words(c.label) & held]
    taken = {c.label for c in emoji}
    concepts = emoji + [c for c in icons if c.label not in taken]
    for concept in concepts:
        if not concept.unseen:
            concept.keywords = [k for k in concept.keywords if not words(k) & held]
    return concepts


def words(text: str) -> set[str]:
    """Content words, singular and lower case as far as dropping an `s` goes."""
    found = re.findall(r"[a-z]+", text.lower())
    return {w.rstrip("s") if len(w) > 3 else w for w in found} - _SMALL_WORDS


def unseen_words(emoji: list[Concept]) -> set[str]:
    """Words that occur in an unseen label and in no seen one."""
    seen: set[str] = set()
    unseen: set[str] = set()
    for concept in emoji:
        (unseen if concept.unseen else seen).update(words(concept.label))
    return unseen - seen


def _svg(entry: dict[str, Any], icons: dict[str, Any]) -> str:
    width = entry.get("width", icons.get("width", 16))
    height = entry.get("height", icons.get("height", 16))
    left, top = entry.get("left", 0), entry.get("top", 0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" color="#000">{entry["body"]}</svg>'
    )


def _emoji(modules: Path) -> list[Concept]:
    folder = modules / "emojibase-data"
    rows = json.loads((folder / "en" / "data.json").read_text("utf-8"))
    names = json.loads((folder / "meta" / "groups.json").read_text("utf-8"))["subgroups"]
    more = json.loads((modules / "emojilib" / "dist" / "emoji-en-US.json").read_text("utf-8"))
    concepts: list[Concept] = []
    by_key: dict[str, Concept] = {}
    for row in rows:
        if "subgroup" not in row:
            continue
        subgroup = names[str(row["subgroup"])]
        if subgroup in ("skin-tone", "hair-style"):
            continue
        extra = [k.replace("_", " ") for k in more.get(row["emoji"], [])[1:]]
        extra = [k for k in extra if re.fullmatch(r"[a-z ]{3,}", k)]
        keywords = list(dict.fromkeys([*row.get("tags", []), *extra]))
        label = row["label"].replace("flag: ", "flag of ").lower()
        keywords = [k for k in keywords if k != label]
        topic = subgroup.replace("-", " ")
        concept = Concept(label, keywords, topic, "emoji", subgroup in UNSEEN_SUBGROUPS)
        concepts.append(concept)
        by_key[_hex(row["hexcode"])] = concept
        by_key.setdefault(_slug(row["label"]), concept)
    for style_folder, style in EMOJI_STYLES.items():
        for key, svg in _emoji_art(modules, style_folder):
            concept = by_key.get(key)
            if concept is not None:
                concept.svg.setdefault(style, svg)
    return [c for c in concepts if c.svg]


def _emoji_art(modules: Path, folder: str) -> Iterator[tuple[str, str]]:
    """(hex code or slug, SVG) of every picture of one emoji set."""
    icons = icon_set(modules, folder)
    chars = modules / "@iconify-json" / folder / "chars.json"
    keys: dict[str, list[str]] = {}
    if chars.is_file():
        for code, name in json.loads(chars.read_text("utf-8")).items():
            keys.setdefault(name, []).append(_hex(code))
    for name, entry in icons["icons"].items():
        for key in keys.get(name) or [name if folder != "fxemoji" else name.replace("-", "")]:
            yield key, _svg(entry, icons)


def _hex(code: str) -> str:
    """Code points without variation selectors, for matching across sets."""
    return "-".join(p for p in code.lower().split("-") if p not in ("fe0f", "fe0e"))


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "").replace("'", "")).strip("-")


def _icons(modules: Path, wider: bool) -> list[Concept]:
    """One concept per icon name; equal names of several sets are one concept in several styles."""
    found: dict[str, Concept] = {}

    def add(
        name: str, tags: list[str], topic: str, style: str, svg: str,
        variants: frozenset[str] = _VARIANTS,
    ) -> None:  # fmt: skip
        parts = [p for p in name.split("-") if p not in variants]
        label = " ".join(parts)
        if not re.fullmatch(r"[a-z][a-z0-9 ]{2,40}", label) or " off" in f" {label}":
            return
        concept = found.setdefault(label, Concept(label, [], topic, "icon"))
        concept.keywords = list(dict.fromkeys([*concept.keywords, *tags]))
        concept.svg.setdefault(style, svg)

    tabler = json.loads((modules / "@tabler" / "icons" / "icons.json").read_text("utf-8"))
    for name, row in tabler.items():
        path = modules / "@tabler" / "icons" / "icons" / "outline" / f"{name}.svg"
        if path.is_file() and row["category"] != "Brand":
            tags = [str(t).replace("-", " ") for t in row["tags"] if t]
            add(name, tags, row["category"].lower(), "tabler", path.read_text("utf-8"))
    lucide = modules / "lucide-static"
    for name, tags in json.loads((lucide / "tags.json").read_text("utf-8")).items():
        path = lucide / "icons" / f"{name}.svg"
        if path.is_file():
            add(name, [t.lower() for t in tags], "icon", "lucide", path.read_text("utf-8"))
    for style in ("flat-color-icons", "mdi", "game-icons"):
        icons = icon_set(modules, style)
        for name, entry in icons["icons"].items():
            add(name, [], "icon", style, _svg(entry, icons))
    for source in WIDER if wider else ():
        icons = icon_set(modules, source.package.split("/")[1])
        for name, entry in icons["icons"].items():
            add(name, [], "icon", wider_style(source), _svg(entry, icons), _WIDER_VARIANTS)
    return list(found.values())
