"""The one training pass, of SFT, policy, reference and reward alike.

Prompts of like lengths run together, padded on the right and causal without a mask, so that no
position ever sees padding; their positions are explicit. Training needs every state and gradients
through them; inference packs instead (`ume_torch.decoder`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from ume_qwen.patches import VisualInput
from ume_qwen.render import RenderedPrompt
from ume_torch.vision import encode_visuals
from ume_train.rendering import Sequences

# The longest prompt of a group against its shortest: less padding against more calls.
_SPREAD = 1.25
# Tokens whose logits are held at once: 151,936 numbers each of the published vocabulary.
_LOGIT_TOKENS = 2048
# On a CPU the flash kernel's backward took a third of a step at short lengths.
_BACKENDS = {
    True: [SDPBackend.MATH],
    False: [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
}
_SHORT = 1024


class Pass(NamedTuple):
    """What one pass gives.

    Attributes:
        disc: (rows, hidden), states of `<disc_emb>`.
        gen: (rows, hidden), states of `<gen_emb>`; zeros where a row has none.
        log_probs: (learned tokens of all rows,) float32, row after row.
    """

    disc: Tensor
    gen: Tensor
    log_probs: Tensor


class Policy(nn.Module):
    """A model that is trained, with the one pass as its `forward`.

    Args:
        model: transformers' model.
        pad: token that fills rows up.
        bf16: autocast matrix products to bfloat16; weights and states stay float32.
        even: call each part of the model equally often whatever the rows hold, as engines that
            shard weights need of all processes: all rows in one call, all media in one call, and
            one blank picture where there are none.
    """

    def __init__(self, model: Any, pad: int, *, bf16: bool, even: bool) -> None:
        super().__init__()
        self.model = model
        self.pad, self.bf16, self.even = pad, bf16, even
        self._kernels = _BACKENDS[False]
        if any(getattr(m, "gradient_checkpointing", False) for m in model.modules()):
            model.gradient_checkpointing_enable(
                {"use_reentrant": False, "context_fn": self._contexts}
            )

    def forward(self, rows: Sequences) -> Pass:
        """See `Pass`."""
        device = self.model.device.type
        longest = max(len(p.ids) for p in rows.prompts)
        self._kernels = _BACKENDS[device == "cpu" and longest < _SHORT]
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16), sdpa_kernel(self._kernels):
            states = self.states(rows.prompts)
            starts = np.cumsum([0, *(len(p.ids) for p in rows.prompts)])[:-1]
            at = torch.from_numpy(starts).to(states.device)
            disc = states[at + torch.tensor(rows.disc, device=states.device)]
            gen_index = torch.tensor(rows.gen, device=states.device)
            gen = states[at + gen_index.clamp(min=0)] * (gen_index >= 0)[:, None]
            return Pass(disc.float(), gen.float(), self._log_probs(rows, states, starts))

    def _contexts(self) -> tuple[Any, Any]:
        """Of a layer's pass, and of the same pass again while gradients are computed."""
        return nullcontext(), sdpa_kernel(self._kernels)

    def states(self, prompts: Sequence[RenderedPrompt]) -> Tensor:
        """Final-norm states (tokens of all prompts, hidden), prompt after prompt, no padding."""
        visuals, unused = self._visuals(prompts)
        lengths = [len(p.ids) for p in prompts]
        found: dict[int, Tensor] = {}
        for group in [list(range(len(prompts)))] if self.even else _alike(lengths):
            states = self._padded([prompts[n] for n in group], visuals, unused)
            found |= {n: states[row, : lengths[n]] for row, n in enumerate(group)}
        return torch.cat([found[n] for n in range(len(prompts))])

    def _log_probs(self, rows: Sequences, states: Tensor, starts: np.ndarray) -> Tensor:
        picked: list[Tensor] = []
        targets: list[int] = []
        for row, prompt in enumerate(rows.prompts):
            first, last = starts[row] + rows.learned[row] - 1, starts[row] + len(prompt.ids) - 1
            picked.append(states[first:last])
            targets += prompt.ids[rows.learned[row] :].tolist()
        if not targets:
            # Touches the head, so that all weights have a part in every pass.
            return self.model.lm_head(states[:1]).float().sum()[None][:0]
        chosen = torch.cat(picked)
        wanted = torch.tensor(targets, device=states.device)
        parts: list[Any] = [
            checkpoint(self._chosen, chosen[n : n + _LOGIT_TOKENS], wanted[n : n + _LOGIT_TOKENS],
                       use_reentrant=False)
            for n in range(0, len(wanted), _LOGIT_TOKENS)
        ]  # fmt: skip
        return torch.cat(parts)

    def _chosen(self, states: Tensor, targets: Tensor) -> Tensor:
        logits = self.model.lm_head(states).float()
        return -F.cross_entropy(logits, targets, reduction="none")

    def _visuals(
        self, prompts: Sequence[RenderedPrompt]
    ) -> tuple[dict[bytes, Tensor], Tensor | None]:
        """States by digest, and states of no use. One pass per distinct picture."""
        distinct = {m.digest: m for p in prompts for m in p.media}
        media = list(distinct.values())
        if not self.even:
            states = encode_visuals(self.model.model.visual, media) if media else []
            return dict(zip(distinct, states, strict=True)), None
        visual = self.model.model.visual
        made = _all_at_once(visual, media or [_blank(visual)])
        if not media:
            return {}, made[0]
        return dict(zip(distinct, made, strict=True)), None

    def _padded(
        self, prompts: Sequence[RenderedPrompt], visuals: dict[bytes, Tensor], unused: Tensor | None
    ) -> Tensor:
        """States (prompts, tokens of the longest, hidden)."""
        rows, width = len(prompts), max(len(p.ids) for p in prompts)
        ids = np.full((rows, width), self.pad, dtype=np.int64)
        positions = np.zeros((3, rows, width), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            length = len(prompt.ids)
            ids[row, :length] = prompt.ids
            positions[:, row, :length] = prompt.positions
        model = self.model
        token_ids = torch.from_numpy(ids).to(model.device)
        embeds: Tensor = model.get_input_embeddings()(token_ids)
        media = [m for p in prompts for m in p.media]
        config = model.config
        places = (token_ids == config.image_token_id) | (token_ids == config.video_token_id)
        # A sampled answer may hold such a token too, which there stands for nothing.
        ends = torch.tensor([p.disc_index for p in prompts], device=model.device)
        places &= torch.arange(width, device=model.device) < ends[:, None]
        features = sum(m.tokens for m in media)
        if int(places.sum()) != features:
            # A pass that does not see its media would train blind, and silently.
            raise RuntimeError(f"{int(places.sum())} media tokens, and {features} features")
        if media:
            visual = torch.cat([visuals[m.digest] for m in media]).to(embeds.dtype)
            embeds = embeds.masked_scatter(places[..., None], visual)
        elif unused is not None:
            embeds = embeds + 0 * unused.sum()
        out = model.model.language_model(
            inputs_embeds=embeds,
            position_ids=torch.from_numpy(positions).to(model.device),
            attention_mask=None,
            use_cache=False,
        )
        return out.last_hidden_state


def _alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of the prompts, in groups of like lengths."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    group: list[int] = []
    for number in order:
        if group and lengths[number] > _SPREAD * lengths[group[0]]:
            yield group
            group = []
        group.append(number)
    yield group


def _all_at_once(visual: Any, media: Sequence[VisualInput]) -> list[Tensor]:
    """States of all media through one call of transformers' own forward."""
    weight: Tensor = visual.patch_embed.proj.weight
    pixels = torch.from_numpy(np.concatenate([m.patches for m in media]))
    grids = torch.tensor([m.grid for m in media], device=weight.device)
    out = visual(pixels.to(weight.device, weight.dtype), grid_thw=grids)
    # transformers 5.x returns an output object, 4.57 the merged states themselves.
    states = out if isinstance(out, Tensor) else out.pooler_output
    return list(states.split([m.tokens for m in media]))


def _blank(visual: Any) -> VisualInput:
    """The smallest picture, of zeros."""
    values = visual.patch_embed.proj.weight[0].numel()
    return VisualInput(np.zeros((4, values), dtype=np.float32), (1, 2, 2), "image", b"")
