"""Packs hold every prompt's tokens, shared ones once, and attend along each prompt's own path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ume_qwen.pack import Pack, build_pack
from ume_qwen.patches import VisualInput
from ume_qwen.render import RenderedPrompt

HEAD = list(range(100, 112))
VISUAL = VisualInput(np.zeros((8, 1176), np.float32), (1, 2, 4), "image", b"a" * 16)


def prompt(*ids: int, media: VisualInput | None = None) -> RenderedPrompt:
    """A prompt of the common head and these ids; a picture, if given, follows the head."""
    own = ([-5] * media.tokens if media else []) + list(ids)
    array = np.array([*HEAD, *own])
    starts = (len(HEAD),) if media else ()
    return RenderedPrompt(
        array, np.tile(np.arange(len(array)), (3, 1)), (media,) if media else (), starts,
        len(array) - 1, len(HEAD), b"head",
    )  # fmt: skip


def spelled(pack: Pack, number: int) -> list[int]:
    """A prompt's tokens, read back along its path."""
    ids: list[int] = []
    for node in (pack.nodes[n] for n in pack.chain(pack.last[number])):
        ids += pack.prompts[node.prompt].ids[node.start : node.stop].tolist()
    return ids


LONG = list(range(20))


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    "tails",
    [
        [LONG, LONG[:10], LONG],  # one inside another, one twice
        [[1], [2], [3]],
        [[*LONG, 1], [*LONG, 2], [*LONG, 1, 3], [7]],
        [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3]],  # too little in common
        [[*LONG, *LONG, 5], [*LONG, *LONG, 6], [*LONG, 9], [9]],
    ],
)
def test_every_prompt_can_be_read_back(tails: list[list[int]], share: bool) -> None:
    prompts = [prompt(*t) for t in tails]
    pack = build_pack(prompts, share=share)
    for number, p in enumerate(prompts):
        assert spelled(pack, number) == p.ids.tolist()
        assert pack.ids()[pack.place(number, p.disc_index)] == p.ids[p.disc_index]
    assert len(pack.ids()) == pack.tokens == pack.positions().shape[1]
    if not share:
        assert pack.tokens == sum(len(p.ids) for p in prompts)


def test_shared_beginnings_are_computed_once_and_stored_heads_not_at_all() -> None:
    prompts = [prompt(*LONG, 1), prompt(*LONG, 2), prompt(*LONG, 2)]
    assert build_pack(prompts).tokens == len(HEAD) + len(LONG) + 2
    stored = build_pack(prompts, cached={b"head"})
    assert stored.tokens == len(LONG) + 2
    with pytest.raises(IndexError, match="not computed"):
        stored.place(0, 3)


def test_pictures_are_shared_by_content_only() -> None:
    other = replace(VISUAL, digest=b"b" * 16)
    tail = [1] * 10
    same = build_pack([prompt(*tail, media=VISUAL), prompt(*tail, 2, media=VISUAL)])
    assert same.tokens == len(HEAD) + VISUAL.tokens + 11 and len(same.media()) == 1
    differ = build_pack([prompt(*tail, media=VISUAL), prompt(*tail, media=other)])
    assert differ.tokens == len(HEAD) + 2 * (VISUAL.tokens + 10)
    assert [m.digest for m in differ.media()] == [VISUAL.digest, other.digest]


def test_random_forests_keep_every_prompt() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        pool = [rng.integers(0, 3, rng.integers(1, 40)).tolist() for _ in range(4)]
        tails: list[list[int]] = []
        for _ in range(12):
            lead = pool[rng.integers(4)][: rng.integers(1, 40)]
            tails.append(lead + rng.integers(0, 3, rng.integers(1, 5)).tolist())
        prompts = [prompt(*t) for t in tails]
        pack = build_pack(prompts)
        assert all(spelled(pack, i) == p.ids.tolist() for i, p in enumerate(prompts))
        assert pack.tokens <= len(HEAD) + sum(len(t) for t in tails)


def test_only_prompts_of_one_scope_are_computed_once() -> None:
    """What one caller sends makes no other caller's answer come sooner; the head is everybody's."""
    mine, other = (replace(prompt(*LONG), scope=scope) for scope in ("mine", "other"))
    assert build_pack([mine, mine]).tokens == len(mine.ids)
    pack = build_pack([mine, other, mine])
    assert pack.tokens == len(HEAD) + 2 * len(LONG)
    for number in range(3):
        assert spelled(pack, number) == mine.ids.tolist()
