"""Texts of every kind that tokenizers and templates have stumbled over."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Random = np.random.Generator

# Alphabets, as ranges of code points.
_PLANES: dict[str, tuple[tuple[int, int], ...]] = {
    "ascii": ((32, 127),), "control": ((0, 32), (127, 160)), "latin": ((0xA0, 0x250),),
    "combining": ((0x300, 0x370), (0x61, 0x7B)), "hebrew, arabic": ((0x590, 0x700),),
    "ideographs": ((0x4E00, 0x9FFF),), "hangul": ((0xAC00, 0xD7A4), (0x1100, 0x1200)),
    "emoji": ((0x1F300, 0x1FAFF), (0x200D, 0x200E), (0xFE0F, 0xFE10)),
    "marks": ((0x2000, 0x2070), (0xFEFF, 0xFF00)), "private": ((0xE000, 0xF900),),
    "surrogates": ((0xD800, 0xE000),), "high planes": ((0x10000, 0x110000),),
}  # fmt: skip
# What a prompt, a template or an index means something by.
_PIECES = (
    "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|endoftext|>",
    "<disc_emb>", "<gen_emb>", "<think>", "</think>", "<answer>", "\n<disc_emb>\n", "{{ 7 * 7 }}",
    "{% for x in y %}", "{# #}", "\uf8ff", "\uf8fe", "Represent the above input text", "\0",
    "\r\n", "\ufeff", "\u2028", "data:image/png;base64,AAAA", "file:///etc/passwd", "%s%n",
    "\\u0000",
    "<image>", "<video>", "[IMG]", "' OR 1=1 --", "</s>", "NaN", "\ud83d", " ", "",
)  # fmt: skip


def _random(rng: Random) -> str:
    ranges = list(_PLANES.values())[int(rng.integers(len(_PLANES)))]
    low, high = ranges[int(rng.integers(len(ranges)))]
    return "".join(map(chr, rng.integers(low, high, int(2 ** rng.integers(0, 11)))))


def _mixed(rng: Random) -> str:
    return "".join(_random(rng)[:40] for _ in range(int(rng.integers(2, 12))))


def _pieces(rng: Random) -> str:
    return "".join(rng.choice(_PIECES, int(rng.integers(1, 20))))


def _words_and_pieces(rng: Random) -> str:
    words = "a red apple on the table , which is not there".split()
    return " ".join(rng.choice([*words, *_PIECES], int(rng.integers(1, 60))))


def _endless(rng: Random) -> str:
    unit = [_random(rng)[:3], *_PIECES][int(rng.integers(1 + len(_PIECES)))] or "a"
    return (unit * (1_000_001 // len(unit) + 1))[: int(10 ** rng.uniform(3, 6.1))]


_KINDS: tuple[tuple[Callable[[Random], str], float], ...] = (
    (_random, 0.35), (_mixed, 0.2), (_pieces, 0.2), (_words_and_pieces, 0.2), (_endless, 0.05),
)  # fmt: skip


def text(rng: Random) -> str:
    """A text of one of the kinds."""
    kinds, shares = zip(*_KINDS, strict=True)
    return kinds[int(rng.choice(len(kinds), p=shares))](rng)
