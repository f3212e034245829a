"""One model on one device: packs, their memory, and what decodes on it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ume_core.errors import LimitExceeded
from ume_qwen.cache import ByteCache
from ume_qwen.pack import build_pack
from ume_qwen.render import RenderedPrompt
from ume_torch.attention import Varlen, find_varlen
from ume_torch.decoder import Decoder, Prefilled
from ume_torch.decoding import Decoding, too_large
from ume_torch.generate import DecodeBatch, Pick, choose
from ume_torch.kv import KeyValues, LayerKV, Shape
from ume_torch.linear import packed
from ume_torch.memory import free_bytes, is_out_of_memory, release
from ume_torch.options import TorchOptions
from ume_torch.scheduler import Asked, Scheduler
from ume_torch.steps import CudaRecorder, Graphed, Plain, Recorder
from ume_torch.vision import Vision

# Prefixes kept are few (one per kind of prompt) and small (2B: 0.7 MB each).
_PREFIX_BYTES = 64 * 1024 * 1024
# The share of free memory that a pack's activations may take.
_PACK_SHARE = 0.25


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
            states = self.prefill(prompts, asked, keep=False).states
            return list(states)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if len(prompts) == 1:
            return [too_large(prompts[0])]
        self.pack_tokens = max(256, self.pack_tokens // 2)
        self.warn(f"out of memory with {len(prompts)} items at once: going on with half")
        middle = len(prompts) // 2
        return [*self.disc(prompts[:middle]), *self.disc(prompts[middle:])]

    def decoding(self, source: Iterator[Asked | None], rows: int | None = None) -> Decoding:
        """Answers that decode together.

        Args:
            source: what is asked for; read only as room appears. None says that there is nothing
                yet.
            rows: most answers together; None takes `rows`, or one where nothing may share a batch.
        """
        most = rows or (1 if self._invariant else self.rows)
        steps = self.decoder.step
        return Decoding(
            self, Scheduler(source, most),
            DecodeBatch(
                Plain(steps) if self.recorder is None else Graphed(steps, self.recorder),
                self._lm_head, KeyValues(self.shape), self.pick or choose,
            ),
            alone=self._invariant,
        )  # fmt: skip

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[RenderedPrompt], asked: Sequence[Sequence[int]], *, keep: bool
    ) -> Prefilled:
        """One pack.

        Args:
            prompts: what it holds.
            asked: per prompt, the places of the tokens whose states are wanted.
            keep: whether the prompts' keys and values are returned too.
        """
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

    def warn(self, message: str) -> None:
        """Give memory back, and say what goes on with less of it."""
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
