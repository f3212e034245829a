"""Batch formation, admission and out-of-memory recovery on one device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ume_core.embedder import Sampling
from ume_core.errors import LimitExceeded
from ume_qwen.cache import ByteCache
from ume_qwen.pack import build_pack
from ume_qwen.render import RenderedPrompt
from ume_torch.attention import Varlen, find_varlen
from ume_torch.decoder import Decoder, Prefilled
from ume_torch.generate import DecodeBatch, Pick, Row, Sampler, StopRules, greedy
from ume_torch.kv import KeyValues, LayerKV, Shape
from ume_torch.linear import packed
from ume_torch.memory import free_bytes, is_out_of_memory, release
from ume_torch.options import TorchOptions
from ume_torch.scheduler import Capacity, Entry, Scheduler
from ume_torch.steps import CudaRecorder, Graphed, Plain, Recorder
from ume_torch.vision import Vision

# Prefixes kept are few (one per kind of prompt) and small (2B: 0.7 MB each).
_PREFIX_BYTES = 64 * 1024 * 1024
# Shares of free memory that a pack's activations and the running rows' keys and values may take.
_PACK_SHARE, _KV_SHARE = 0.25, 0.5


@dataclass(frozen=True)
class Generated:
    """All samples of one prompt, done.

    Attributes:
        number: the caller's number of the prompt.
        disc: the state of `<disc_emb>`, (hidden,).
        rows: its finished samples, in order.
    """

    number: int
    disc: Tensor
    rows: list[Row]


@dataclass(frozen=True)
class Kernels:
    """What computes, where it is not what suits the device; for tests and measurements.

    Attributes:
        varlen: attention over many segments in one call; None loops over segments.
        recorder: records decoding steps for replay; None runs each step as it comes.
        block: tokens by which a row's keys and values grow.
    """

    varlen: Varlen | None = None
    recorder: Recorder | None = None
    block: int = 64


class Runner:
    """One loaded model. Thread-safe: calls share weights and caches, nothing else.

    Attributes:
        device: the torch device.
        decoder: the language model.
        vision: the vision tower.
        shape: layout of keys and values.
        recorder: records decoding steps for replay; None runs each step as it comes.
        pick: chooses tokens in place of greedy decoding or sampling; for measurements.
        pack_tokens: most tokens of a pack.
        rows: most answers decoded together.
    """

    def __init__(
        self,
        model: Any,
        device: str,
        attention: str,
        options: TorchOptions,
        kernels: Kernels | None = None,
    ) -> None:
        self.device = device
        self._invariant = options.invariant
        kernels = kernels or _suitable(device, attention, model.dtype, options)
        self.decoder = Decoder(model, kernels.varlen)
        self.vision = Vision(model.model.visual, options.media_cache_bytes, kernels.varlen)
        self._plain_head = model.lm_head
        self._head: Any = None
        self._packing = Lock()
        self._places = (model.config.image_token_id, model.config.video_token_id)
        d = self.decoder
        self.recorder = kernels.recorder
        self.pick: Pick | None = None
        if torch.device(device).type == "cuda":
            # cuDNN's attention, torch's first choice on Hopper, makes a plan for every exact shape
            # (tens of milliseconds), and lengths change with every step and prompt. The switch is
            # the process's; a choice per call would not be thread-safe.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self.shape = Shape(
            len(d.layers), d.kv_heads, d.head_dim, model.dtype, torch.device(device),
            block=kernels.block,
        )  # fmt: skip
        self._prefixes = ByteCache[bytes, LayerKV](
            _PREFIX_BYTES, lambda kv: sum(2 * k.numel() * k.element_size() for k, _ in kv)
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

    def weights_changed(self) -> None:
        """Forget what was computed with, or copied from, the model's weights before they changed.

        Prefixes and pictures are known by their content alone, and on a CPU the LM head is a packed
        copy. To be called between calls, as after an optimizer step.
        """
        with self._packing:
            self._head = None
        self._prefixes.clear()
        self.vision.forget()

    def _fitting_tokens(self, model: Any, most: int) -> int:
        """Tokens of a pack: the option's, or fewer where memory is short."""
        config = model.model.language_model.config
        # Held at once for a token: about six states, the three sides of the MLP, its keys, values.
        width = 6 * config.hidden_size + 3 * config.intermediate_size
        per_token = width * self.shape.dtype.itemsize + self.shape.bytes_per_token
        return max(256, min(most, int(free_bytes(self.device) * _PACK_SHARE / per_token)))

    def disc(self, prompts: Sequence[RenderedPrompt]) -> list[Tensor | LimitExceeded]:
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
        self._warn(f"out of memory with {len(prompts)} items at once: going on with half")
        middle = len(prompts) // 2
        return [*self.disc(prompts[:middle]), *self.disc(prompts[middle:])]

    def gen(
        self,
        prompts: Iterator[tuple[int, RenderedPrompt]],
        rules: StopRules,
        sampling: Sampling | None,
        beginning: Sequence[int] = (),
    ) -> Iterator[Generated | tuple[int, LimitExceeded]]:
        """Decode prompts as they come; yields them as they finish, in no fixed order.

        Args:
            prompts: the caller's numbers and prompts; read only as room appears.
            rules: how answers end.
            sampling: how tokens are sampled; None is greedy.
            beginning: the given beginning of every answer.
        """
        samples = sampling.n if sampling is not None else 1
        pick = self.pick or (Sampler(sampling) if sampling is not None else greedy)
        most = max(samples, 1 if self._invariant else self.rows)
        scheduler = Scheduler(prompts, samples, most)
        step = self.decoder.step
        steps = Plain(step) if self.recorder is None else Graphed(step, self.recorder)
        batch = DecodeBatch(steps, self._lm_head, KeyValues(self.shape), pick, rules)
        try:
            yield from self._decode(scheduler, batch, samples, beginning)
        finally:
            steps.close()

    def _decode(
        self, scheduler: Scheduler, batch: DecodeBatch, samples: int, beginning: Sequence[int]
    ) -> Iterator[Generated | tuple[int, LimitExceeded]]:
        found: dict[int, Generated] = {}
        room = int(free_bytes(self.device) * _KV_SHARE)
        while True:
            if scheduler.has_room(len(batch)):
                yield from self._start(scheduler, batch, room, found, beginning)
            if len(batch) == 0:
                if scheduler.exhausted:
                    return
                continue
            grown = batch.cache.bytes_for(len(batch), max(batch.cache.lengths) + 1)
            crowded = grown > room and len(batch) > 1
            done = None if crowded else self._advance(batch)
            if done is None:
                # A step that failed midway leaves rows and cache half advanced: all start again.
                rows = batch.abandon()
                impossible = scheduler.step_failed([(r.prompt, r.sample) for r in rows])
                if impossible is not None:
                    found.pop(rows[0].prompt, None)
                    yield rows[0].prompt, _too_large(impossible)
                    continue
                self._warn(f"out of memory while decoding: going on with {scheduler.rows} rows")
                continue
            for row in done:
                entry = found[row.prompt]
                entry.rows.append(row)
                if len(entry.rows) == samples:
                    entry.rows.sort(key=lambda r: r.sample)
                    del found[row.prompt]
                    scheduler.done(row.prompt)
                    yield entry
            if len(batch) == 0:
                scheduler.idle()

    def _advance(self, batch: DecodeBatch) -> list[Row] | None:
        """One step of all rows; None where memory does not suffice for so many."""
        try:
            with torch.inference_mode():
                return batch.advance()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _start(
        self,
        scheduler: Scheduler,
        batch: DecodeBatch,
        room: int,
        found: dict[int, Generated],
        beginning: Sequence[int],
    ) -> Iterator[tuple[int, LimitExceeded]]:
        """Prefill waiting prompts and let their rows join, as many as fit."""
        capacity = Capacity(batch.cache.bytes_for, room, self.pack_tokens)
        longest = max(batch.cache.lengths, default=0)
        taken = scheduler.admit(len(batch), longest, capacity, alone=self._invariant)
        if not taken:
            return
        try:
            asked = [(e.prompt.disc_index, len(e.prompt.ids) - 1) for e in taken]
            filled = self._prefill([e.prompt for e in taken], asked, keep=True)
            self._join(batch, taken, filled, found, beginning)
            scheduler.started()
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        release(self.device)
        impossible = scheduler.prefill_failed(taken, len(batch))
        if impossible is not None:
            found.pop(taken[0].number, None)
            yield taken[0].number, _too_large(impossible)
            return
        rows = sum(len(e.samples) for e in taken)
        self._warn(f"out of memory with {rows} rows to start at once: going on with fewer")

    def _join(
        self,
        batch: DecodeBatch,
        taken: list[Entry],
        filled: Prefilled,
        found: dict[int, Generated],
        beginning: Sequence[int],
    ) -> None:
        rows: list[Row] = []
        kv: list[LayerKV] = []
        for index, entry in enumerate(taken):
            disc, last = filled.states[2 * index], filled.states[2 * index + 1]
            found.setdefault(entry.number, Generated(entry.number, disc.clone(), []))
            following = int(entry.prompt.positions.max()) + 1
            for sample in entry.samples:
                rows.append(Row(entry.number, sample, following, last, list(beginning)))
                kv.append(filled.rows[index])
        with torch.inference_mode():
            batch.add(rows, kv)

    @torch.inference_mode()
    def _prefill(
        self, prompts: Sequence[RenderedPrompt], asked: Sequence[Sequence[int]], *, keep: bool
    ) -> Prefilled:
        """One pack; `asked` lists per prompt the tokens whose states are wanted."""
        share = not self._invariant
        known = {p.prefix_key: self._prefixes.get(p.prefix_key) for p in prompts} if share else {}
        prefixes = {key: kv for key, kv in known.items() if kv is not None}
        pack = build_pack(prompts, cached=prefixes.keys(), share=share)
        ids = torch.from_numpy(pack.ids()).to(self.device)
        embeds: Tensor = self.decoder.embed(ids)
        media = pack.media()
        if media:
            visual = torch.cat(self.vision(media, together=share)).to(embeds.dtype)
            places = (ids == self._places[0]) | (ids == self._places[1])
            embeds = embeds.masked_scatter(places[:, None], visual)
        flat = [pack.place(row, index) for row, wanted in enumerate(asked) for index in wanted]
        filled = self.decoder.prefill(pack, embeds, flat, prefixes, keep=keep)
        for key, kv in filled.prefixes.items():
            self._prefixes.put(key, kv)
        return filled

    def _warn(self, message: str) -> None:
        release(self.device)
        warnings.warn(f"ume_torch: {message}", RuntimeWarning, stacklevel=2)


def _suitable(device: str, attention: str, dtype: torch.dtype, options: TorchOptions) -> Kernels:
    """The kernels that suit a device."""
    varlen = find_varlen(attention, device, str(dtype).removeprefix("torch."))
    place = torch.device(device)
    # A graph looks at the cache's whole room, which depends on what ran before.
    if place.type != "cuda" or not options.cuda_graphs or options.invariant:
        return Kernels(varlen)
    # Graphs are recorded again whenever the room has grown.
    return Kernels(varlen, CudaRecorder(place), block=256)


def _too_large(prompt: RenderedPrompt) -> LimitExceeded:
    return LimitExceeded(
        f"the item's {len(prompt.ids):,} tokens do not fit in memory even alone",
        fix="shorten it, lower max_pixels or max_new_tokens, or use a machine with more memory",
    )
