"""Packs and running rows on one device: what runs together, and what to do without memory."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ume_core.cache import ByteCache
from ume_core.embedder import Sampling
from ume_core.errors import LimitExceeded
from ume_core.loading import LoadOptions
from ume_core.qwen.pack import build_pack
from ume_core.qwen.render import Rendered
from ume_torch.attention import find_varlen
from ume_torch.decoder import Decoder, Prefilled
from ume_torch.generate import Pick, Row, Rules, Running, Sampler, greedy
from ume_torch.kv import KeyValues, LayerKV, Shape
from ume_torch.linear import packed
from ume_torch.memory import free_bytes, is_out_of_memory, release
from ume_torch.steps import CudaRecorder, Graphed, Plain, Recorder
from ume_torch.vision import Vision

# Heads kept are few (one per kind of prompt) and small (2B: 0.7 MB each).
_HEAD_BYTES = 64 * 1024 * 1024
# Shares of free memory that a pack's activations and the running rows' keys and values may take.
_PACK_SHARE, _KV_SHARE = 0.25, 0.5


@dataclass(frozen=True)
class Generated:
    """All samples of one prompt, done.

    Attributes:
        number: the caller's number. disc: (hidden,) state of `<disc_emb>`.
    """

    number: int
    disc: Tensor
    rows: list[Row]


@dataclass
class _Waiting:
    number: int
    prompt: Rendered
    samples: list[int]


class Runner:
    """One loaded model. Thread-safe: calls share weights and caches, nothing else."""

    def __init__(self, model: Any, device: str, attention: str, options: LoadOptions) -> None:
        self.device = device
        self._invariant = options.invariant
        dtype = str(model.dtype).removeprefix("torch.")
        varlen = find_varlen(attention, device, dtype)
        self._decoder = Decoder(model, varlen)
        self._vision = Vision(model.model.visual, options.media_cache_bytes, varlen)
        self._plain_head = model.lm_head
        self._head: Any = None
        self._packing = Lock()
        self._places = (model.config.image_token_id, model.config.video_token_id)
        d = self._decoder
        # A graph looks at the cache's whole room, which depends on what ran before.
        on_cuda = torch.device(device).type == "cuda"
        wanted = on_cuda and options.cuda_graphs and not options.invariant
        self._recorder: Recorder | None = CudaRecorder(torch.device(device)) if wanted else None
        if on_cuda:
            # cuDNN's attention, torch's first choice on Hopper, makes a plan for every exact shape
            # (tens of milliseconds), and lengths change with every step and prompt. The switch is
            # the process's; a choice per call would not be thread-safe.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._shape = Shape(
            len(d.layers), d.kv_heads, d.head_dim, model.dtype, torch.device(device),
            # Graphs are recorded again whenever the room has grown.
            block=256 if wanted else 64,
        )  # fmt: skip
        self._heads = ByteCache[bytes, LayerKV](
            _HEAD_BYTES, lambda kv: sum(2 * k.numel() * k.element_size() for k, _ in kv)
        )
        self.pack_tokens = self._fitting_tokens(model, options.batch_tokens)
        self.rows = options.gen_rows

    @property
    def _lm_head(self) -> Any:
        """The LM head; on a CPU packed at the first gen call, once for all threads.

        That is a second copy of weights that are mostly the embedding table's too, and reads
        them in two thirds (bfloat16) to a quarter (float32, 8 rows) of the time.
        """
        with self._packing:
            if self._head is None:
                plain = self._plain_head
                self._head = packed(plain) if self.device == "cpu" else plain
            return self._head

    def _fitting_tokens(self, model: Any, most: int) -> int:
        """Tokens of a pack: the option's, or fewer where memory is short."""
        config = model.model.language_model.config
        # Held at once for a token: about six states, the three sides of the MLP, its keys, values.
        width = 6 * config.hidden_size + 3 * config.intermediate_size
        per_token = width * self._shape.dtype.itemsize + self._shape.bytes_per_token
        return max(256, min(most, int(free_bytes(self.device) * _PACK_SHARE / per_token)))

    def disc(self, prompts: Sequence[Rendered]) -> list[Tensor | LimitExceeded]:
        """The state of every prompt's `<disc_emb>`, (hidden,), or why there is none."""
        asked = [(p.disc_index,) for p in prompts]
        try:
            states = self._prefill(prompts, asked, keep=False).states
            return list(states)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if len(prompts) == 1:
            return [_too_large(prompts[0])]
        self.pack_tokens = max(256, self.pack_tokens // 2)
        self._say(f"out of memory with {len(prompts)} items at once: going on with half")
        middle = len(prompts) // 2
        return [*self.disc(prompts[:middle]), *self.disc(prompts[middle:])]

    def gen(
        self,
        prompts: Iterator[tuple[int, Rendered]],
        rules: Rules,
        sampling: Sampling | None,
        script: Sequence[int] = (),
        pick: Pick | None = None,
    ) -> Iterator[Generated | tuple[int, LimitExceeded]]:
        """Decode prompts as they come; yields them as they finish, in no fixed order.

        Args:
            prompts: the caller's numbers and prompts; read only as room appears.
            script: the given beginning of every answer.
            pick: chooses tokens; greedy or sampling unless given.
        """
        samples = sampling.n if sampling is not None else 1
        pick = pick or (Sampler(sampling) if sampling is not None else greedy)
        line = _Line(prompts, samples, max(samples, 1 if self._invariant else self.rows))
        step = self._decoder.step
        steps = Plain(step) if self._recorder is None else Graphed(step, self._recorder)
        run = Running(steps, self._lm_head, KeyValues(self._shape), pick, rules)
        try:
            yield from self._decode(line, run, samples, script)
        finally:
            steps.close()

    def _decode(
        self, line: _Line, run: Running, samples: int, script: Sequence[int]
    ) -> Iterator[Generated | tuple[int, LimitExceeded]]:
        found: dict[int, Generated] = {}
        room = int(free_bytes(self.device) * _KV_SHARE)
        while True:
            # Few at a time would make many small prefills: wait until a quarter is free.
            room_for = min(line.rows, line.hold) - len(run)
            if len(run) == 0 or room_for >= max(1, line.rows // 4):
                yield from self._admit(line, run, room, found, script)
            if len(run) == 0:
                if line.peek() is None:
                    return
                continue
            grown = run.cache.bytes_for(len(run), max(run.cache.lengths) + 1)
            crowded = grown > room and len(run) > 1
            done = None if crowded else self._advance(run)
            if done is None:
                # A step that failed midway leaves rows and cache half advanced: all start again.
                rows = run.abandon()
                if len(rows) == 1 and line.tried_again(rows[0].prompt):
                    number = rows[0].prompt
                    yield number, _too_large(line.prompt(number))
                    line.give_up(number)
                    found.pop(number, None)
                    continue
                line.rows = max(1, len(rows) // 2)
                line.put_back(rows)
                self._say(f"out of memory while decoding: going on with {line.rows} rows")
                continue
            for row in done:
                entry = found[row.prompt]
                entry.rows.append(row)
                if len(entry.rows) == samples:
                    entry.rows.sort(key=lambda r: r.sample)
                    del found[row.prompt]
                    line.forget(row.prompt)
                    yield entry
            if len(run) == 0:
                line.reopen()

    def _advance(self, run: Running) -> list[Row] | None:
        """One step of all rows; None where memory does not suffice for so many."""
        try:
            with torch.inference_mode():
                return run.advance()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _admit(
        self,
        line: _Line,
        run: Running,
        room: int,
        found: dict[int, Generated],
        script: Sequence[int],
    ) -> Iterator[tuple[int, LimitExceeded]]:
        """Prefill waiting prompts and let their rows join, as many as fit."""
        taken: list[_Waiting] = []
        tokens = rows = 0
        longest = max(run.cache.lengths, default=0)
        while (entry := line.peek()) is not None:
            length, wanted = len(entry.prompt.ids), min(len(entry.samples), line.rows)
            size = run.cache.bytes_for(len(run) + rows + wanted, max(longest, length) + 1)
            crowded = len(run) + rows + wanted > min(line.rows, line.hold) or size > room
            full = tokens + length > self.pack_tokens or len(taken) == line.at_once
            if (run.rows or taken) and (crowded or full):
                break
            taken.append(line.take())
            longest, tokens = max(longest, length), tokens + length
            rows += len(taken[-1].samples)
            if self._invariant:
                break
        if not taken:
            return
        try:
            asked = [(e.prompt.disc_index, len(e.prompt.ids) - 1) for e in taken]
            filled = self._prefill([e.prompt for e in taken], asked, keep=True)
            self._join(run, taken, filled, found, script)
            line.hold = line.rows
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        release(self.device)
        alone = len(run) == 0 and len(taken) == 1 and len(taken[0].samples) == 1
        if alone and line.tried_again(taken[0].number):
            number = taken[0].number
            line.give_up(number)
            found.pop(number, None)
            yield number, _too_large(taken[0].prompt)
            return
        self._say(f"out of memory with {rows} rows to start at once: going on with fewer")
        if len(taken) > 1:
            line.at_once = len(taken) // 2
        elif len(run) > 0:  # no more join before some have left
            line.hold = len(run)
        else:
            line.rows = max(1, rows // 2)
        for entry in reversed(taken):
            line.push(entry)

    def _join(
        self,
        run: Running,
        taken: list[_Waiting],
        filled: Prefilled,
        found: dict[int, Generated],
        script: Sequence[int],
    ) -> None:
        rows: list[Row] = []
        kv: list[LayerKV] = []
        for number, entry in enumerate(taken):
            disc, last = filled.states[2 * number], filled.states[2 * number + 1]
            found.setdefault(entry.number, Generated(entry.number, disc.clone(), []))
            following = int(entry.prompt.positions.max()) + 1
            for sample in entry.samples:
                rows.append(Row(entry.number, sample, following, last, list(script)))
                kv.append(filled.rows[number])
        with torch.inference_mode():
            run.add(rows, kv)

    @torch.inference_mode()
    def _prefill(
        self, prompts: Sequence[Rendered], asked: Sequence[Sequence[int]], *, keep: bool
    ) -> Prefilled:
        """One pack; `asked` lists per prompt the tokens whose states are wanted."""
        share = not self._invariant
        known = {p.head_key: self._heads.get(p.head_key) for p in prompts} if share else {}
        heads = {key: kv for key, kv in known.items() if kv is not None}
        pack = build_pack(prompts, stored=heads.keys(), share=share)
        ids = torch.from_numpy(pack.ids()).to(self.device)
        embeds: Tensor = self._decoder.embed(ids)
        media = pack.media()
        if media:
            visual = torch.cat(self._vision(media, together=share)).to(embeds.dtype)
            places = (ids == self._places[0]) | (ids == self._places[1])
            embeds = embeds.masked_scatter(places[:, None], visual)
        flat = [pack.place(row, index) for row, wanted in enumerate(asked) for index in wanted]
        filled = self._decoder.prefill(pack, embeds, flat, heads, keep=keep)
        for key, kv in filled.heads.items():
            self._heads.put(key, kv)
        return filled

    def _say(self, message: str) -> None:
        release(self.device)
        warnings.warn(f"ume_torch: {message}", RuntimeWarning, stacklevel=2)


class _Line:
    """Prompts that wait to be decoded, and those that are.

    Attributes:
        rows: most rows that may run together. at_once: most prompts of one prefill.
        hold: most rows for now; a prompt did not fit beside as many.
    """

    def __init__(self, prompts: Iterator[tuple[int, Rendered]], samples: int, rows: int) -> None:
        self._source, self._samples = prompts, samples
        self.rows = self.at_once = self.hold = rows
        self._front: deque[_Waiting] = deque()
        self._running: dict[int, Rendered] = {}
        self._failed_alone: set[int] = set()

    def peek(self) -> _Waiting | None:
        """The next one, left in its place."""
        if not self._front:
            following = next(self._source, None)
            if following is None:
                return None
            self._front.append(_Waiting(*following, list(range(self._samples))))
        return self._front[0]

    def reopen(self) -> None:
        """Nothing runs: what did not fit beside others may now."""
        self.at_once = self.hold = self.rows

    def take(self) -> _Waiting:
        """The one that `peek` showed, with no more samples than may run together."""
        entry = self._front.popleft()
        if len(entry.samples) > self.rows:
            rest = entry.samples[self.rows :]
            self.push(_Waiting(entry.number, entry.prompt, rest))
            entry = _Waiting(entry.number, entry.prompt, entry.samples[: self.rows])
        self._running[entry.number] = entry.prompt
        return entry

    def push(self, entry: _Waiting) -> None:
        """Put one back to the front."""
        self._front.appendleft(entry)

    def put_back(self, rows: Sequence[Row]) -> None:
        """Rows that were thrown out start again from their prompt."""
        again: dict[int, list[int]] = {}
        for row in rows:
            again.setdefault(row.prompt, []).append(row.sample)
        for number, samples in again.items():
            self.push(_Waiting(number, self._running[number], samples))

    def prompt(self, number: int) -> Rendered:
        """A prompt that was taken."""
        return self._running[number]

    def tried_again(self, number: int) -> bool:
        """Whether a prompt failed alone before; memory may have been short for a moment only."""
        again = number in self._failed_alone
        self._failed_alone.add(number)
        return again

    def forget(self, number: int) -> None:
        """A prompt is done."""
        self._running.pop(number, None)

    def give_up(self, number: int) -> None:
        """A prompt cannot be done; what waits of it does not start."""
        self.forget(number)
        self._front = deque(e for e in self._front if e.number != number)


def _too_large(prompt: Rendered) -> LimitExceeded:
    return LimitExceeded(
        f"the item's {len(prompt.ids):,} tokens do not fit in memory even alone",
        fix="shorten it, lower max_pixels or max_new_tokens, or use a machine with more memory",
    )
