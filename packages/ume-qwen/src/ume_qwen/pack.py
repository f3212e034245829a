"""Prompts laid end to end, every shared beginning once.

A pack is a forest: a node is a run of tokens that at least one prompt passes through, a prompt is a
path from a root to its last node. Tokens that several prompts share (the system turn, a repeated
instruction, a whole prompt given twice) are computed once, no padding is computed at all, and a
node attends to its own tokens and to those of its ancestors. Roots are the prompts' prefixes, what
stands before the user's own content; their keys and values may be cached from an earlier pack.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ume_qwen.patches import VisualInput
from ume_qwen.render import RenderedPrompt

Ints = npt.NDArray[np.int64]

# A node costs one attention call per layer; fewer shared tokens than this are not worth one.
_LEAST_SHARED = 8


@dataclass
class Node:
    """A run of tokens.

    Attributes:
        prompt: number of a prompt that passes through it, from which its tokens are read.
        start, stop: its tokens' places in that prompt (and in every other one through it).
        parent: number of the node before it, or -1.
        prefix: the key of a root, else None.
        offset: place of its first token in the pack; -1 if its keys and values are cached already.
    """

    prompt: int
    start: int
    stop: int
    parent: int
    prefix: bytes | None = None
    offset: int = -1

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass
class Pack:
    """A forest over some prompts.

    Attributes:
        prompts: as given.
        nodes: parents before children.
        last: per prompt the number of its last node.
        tokens: how many are computed.
    """

    prompts: Sequence[RenderedPrompt]
    nodes: list[Node] = field(default_factory=list[Node])
    last: list[int] = field(default_factory=list[int])
    tokens: int = 0

    @property
    def computed(self) -> list[Node]:
        """The nodes that are not cached already."""
        return [n for n in self.nodes if n.offset >= 0]

    def chain(self, node: int) -> list[int]:
        """The ancestors of a node and itself, root first."""
        found: list[int] = []
        while node >= 0:
            found.append(node)
            node = self.nodes[node].parent
        return found[::-1]

    def place(self, prompt: int, index: int) -> int:
        """Where a prompt's token stands in the pack."""
        for number in reversed(self.chain(self.last[prompt])):
            node = self.nodes[number]
            if node.start <= index < node.stop and node.offset >= 0:
                return node.offset + index - node.start
        raise IndexError(f"token {index} of prompt {prompt} is not computed")

    def ids(self) -> Ints:
        """int64 (tokens,)."""
        return np.concatenate([self.prompts[n.prompt].ids[n.start : n.stop] for n in self.computed])

    def positions(self) -> Ints:
        """int64 (3, tokens), M-RoPE."""
        parts = [self.prompts[n.prompt].positions[:, n.start : n.stop] for n in self.computed]
        return np.concatenate(parts, axis=1)

    def placed_media(self) -> list[tuple[int, VisualInput]]:
        """The media whose tokens are computed, each with the place of its first token."""
        found: list[tuple[int, VisualInput]] = []
        for node in self.computed:
            prompt = self.prompts[node.prompt]
            for start, visual in zip(prompt.media_starts, prompt.media, strict=True):
                if node.start <= start < node.stop:
                    found.append((node.offset + start - node.start, visual))
        return found

    def media(self) -> list[VisualInput]:
        """The media whose tokens are computed, in the order of their tokens."""
        return [visual for _, visual in self.placed_media()]


def build_pack(
    prompts: Sequence[RenderedPrompt], *, cached: Collection[bytes] = (), share: bool = True
) -> Pack:
    """Lay prompts out as a forest.

    Args:
        cached: keys of the prefixes whose keys and values need not be computed.
        share: whether equal beginnings are merged; within one scope, but for the prefix.
    """
    pack = Pack(prompts, last=[-1] * len(prompts))
    keys = _keys(prompts)
    prefixes: dict[bytes, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        if share:
            prefixes[prompt.prefix_key].append(number)
        else:
            pack.last[number] = _add(pack, number, 0, len(prompt.ids), -1)
    for key, group in prefixes.items():
        prefix = prompts[group[0]].prefix
        root = _add(pack, group[0], 0, prefix, -1)
        pack.nodes[root].prefix = key
        # What one scope sends must not make another's answer come sooner.
        for scope in dict.fromkeys(prompts[number].scope for number in group):
            same = [number for number in group if prompts[number].scope == scope]
            _grow(pack, keys, same, prefix, root)
    for node in pack.nodes:
        if node.prefix is None or node.prefix not in cached:
            node.offset = pack.tokens
            pack.tokens += len(node)
    return pack


def _grow(pack: Pack, keys: list[Ints], group: list[int], start: int, parent: int) -> None:
    """Add the nodes of prompts that are equal up to `start`."""
    shared = _agree(keys, group, start)
    if len(group) == 1 or shared - start >= _LEAST_SHARED:
        parent = _add(pack, group[0], start, shared, parent)
        start = shared
    parts: dict[int | None, list[int]] = defaultdict(list)
    for number in group:
        ended = len(keys[number]) == shared
        parts[None if ended else int(keys[number][shared])].append(number)
    for symbol, part in parts.items():
        if symbol is not None:
            _grow(pack, keys, part, start, parent)
            continue
        last = _add(pack, part[0], start, shared, parent) if start < shared else parent
        for number in part:
            pack.last[number] = last


def _agree(keys: list[Ints], group: list[int], start: int) -> int:
    """Up to where all prompts of the group are equal."""
    first = keys[group[0]]
    stop = len(first)
    for number in group[1:]:
        other = keys[number]
        width = min(stop, len(other))
        differ = np.flatnonzero(first[start:width] != other[start:width])
        stop = start + int(differ[0]) if len(differ) else width
    return stop


def _keys(prompts: Sequence[RenderedPrompt]) -> list[Ints]:
    """Their ids, with the placeholders of every picture replaced by a number for its content."""
    numbers: dict[bytes, int] = {}
    keys: list[Ints] = []
    for prompt in prompts:
        key = np.array(prompt.ids, dtype=np.int64)
        for start, visual in zip(prompt.media_starts, prompt.media, strict=True):
            key[start : start + visual.tokens] = ~numbers.setdefault(visual.digest, len(numbers))
        keys.append(key)
    return keys


def _add(pack: Pack, prompt: int, start: int, stop: int, parent: int) -> int:
    pack.nodes.append(Node(prompt, start, stop, parent))
    return len(pack.nodes) - 1
