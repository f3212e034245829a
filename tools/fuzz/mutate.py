"""Ways to spoil bytes. Every one is seeded; the table is the whole of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

Random: TypeAlias = np.random.Generator
Spoil: TypeAlias = Callable[[bytearray, Random], bytearray]

_PNG = b"\x89PNG\r\n\x1a\n"
# Numbers at which parsers' sums go wrong.
_EDGES = (
    0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000,
)  # fmt: skip


def _flip_bits(data: bytearray, rng: Random) -> bytearray:
    for _ in range(int(rng.integers(1, 9))):
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return data


def _overwrite(data: bytearray, rng: Random) -> bytearray:
    start, length = _stretch(data, rng)
    data[start : start + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
    return data


def _blank(data: bytearray, rng: Random) -> bytearray:
    start, length = _stretch(data, rng)
    data[start : start + length] = bytes([int(rng.choice([0, 255]))]) * length
    return data


def _edge_number(data: bytearray, rng: Random) -> bytearray:
    for _ in range(int(rng.integers(1, 4))):
        width = int(rng.choice([1, 2, 4]))
        number = int(rng.choice(_EDGES)) % (1 << 8 * width)
        start = _place(data, rng)
        order = "big" if rng.random() < 0.5 else "little"
        data[start : start + width] = number.to_bytes(width, order)
    return data


def _cut_end(data: bytearray, rng: Random) -> bytearray:
    return data[: int(rng.integers(0, len(data) + 1))]


def _cut_out(data: bytearray, rng: Random) -> bytearray:
    start, length = _stretch(data, rng)
    del data[start : start + length]
    return data


def _insert(data: bytearray, rng: Random) -> bytearray:
    start, length = _stretch(data, rng)
    data[start:start] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
    return data


def _repeat(data: bytearray, rng: Random) -> bytearray:
    start, length = _stretch(data, rng)
    data[start:start] = data[start : start + length] * int(rng.integers(1, 20))
    return data


def _move(data: bytearray, rng: Random) -> bytearray:
    start, length = _stretch(data, rng)
    piece = data[start : start + length]
    del data[start : start + length]
    place = _place(data, rng) if data else 0
    data[place:place] = piece
    return data


SPOILS: tuple[Spoil, ...] = (
    _flip_bits, _overwrite, _blank, _edge_number, _cut_end, _cut_out, _insert, _repeat, _move,
)  # fmt: skip


def spoil(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """One to three of the ways, on a whole file or on one spliced with another.

    Every other PNG gets checksums that fit again, or none would come past them.
    """
    spoilt = bytearray(data)
    if rng.random() < 0.05:
        other = others[int(rng.integers(len(others)))]
        spoilt = spoilt[: _place(spoilt, rng)] + other[_place(bytearray(other), rng) :]
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))):
        if not spoilt:
            break
        spoilt = SPOILS[int(rng.integers(len(SPOILS)))](spoilt, rng)
    if spoilt[:8] == _PNG and rng.random() < 0.5:
        return _with_checks(bytes(spoilt))
    return bytes(spoilt)


def _with_checks(png: bytes) -> bytes:
    """The same chunks with checksums of what is in them now."""
    out, place = bytearray(png[:8]), 8
    while place + 12 <= len(png):
        size = int.from_bytes(png[place : place + 4], "big")
        body = png[place + 4 : place + 8 + size]
        out += png[place : place + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        place += 12 + size
    return bytes(out)


def _place(data: bytearray, rng: Random) -> int:
    """Anywhere; one time of three near the beginning, where headers are."""
    limit = min(len(data), 128) if rng.random() < 0.33 else len(data)
    return int(rng.integers(limit))


def _stretch(data: bytearray, rng: Random) -> tuple[int, int]:
    start = _place(data, rng)
    return start, int(min(len(data) - start, 2 ** rng.integers(0, 10)))
