"""The published recipe's model: plain transformers, on inputs that our preparation made ready.

Preparation is held to the recipe's own by `tests/test_parity.py`; a GPU changes the arithmetic. So
this needs neither torchvision nor qwen-vl-utils, and as a baseline it is spared the recipe's
preparation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tools.benchmark.baselines import ScriptedHead
from ume_core.results import Vectors
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.config import ARCHITECTURES
from ume_qwen.render import RenderedPrompt
from ume_qwen.tokens import Tokenizer


class Plain:
    """A checkpoint in plain transformers.

    Attributes:
        model: the transformers model.
        special: ids of the special tokens.
        script: makes answers end where they should.
    """

    def __init__(self, directory: Path, dtype: torch.dtype, device: str) -> None:
        import transformers

        checkpoint = find_checkpoint(directory)
        model_class = getattr(transformers, ARCHITECTURES[checkpoint.config["model_type"]])
        model = model_class.from_pretrained(
            directory, torch_dtype=dtype, attn_implementation="sdpa"
        )
        self.model: Any = model.to(device).eval()
        self.special = Tokenizer(checkpoint.tokenizer, checkpoint.config).special
        known = {"<gen_emb>": self.special.gen, "<|im_end|>": self.special.end}
        self.script = ScriptedHead(self.model, known)
        self.device = device

    def inputs(self, prompts: Sequence[RenderedPrompt]) -> dict[str, Tensor]:
        """What the recipe's processor gives for a batch, padded on the left."""
        self.model.model.rope_deltas = None  # transformers keeps the last batch's
        rows, width = len(prompts), max(len(p.ids) for p in prompts)
        ids = np.full((rows, width), self.special.pad, dtype=np.int64)
        mask = np.zeros((rows, width), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt.ids) :] = prompt.ids
            mask[row, width - len(prompt.ids) :] = 1
        kinds = np.where(ids == self.special.image, 1, np.where(ids == self.special.video, 2, 0))
        found = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": kinds}
        for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            media = [m for p in prompts for m in p.media if m.kind == kind]
            if media:
                found[pixels] = np.concatenate([m.patches for m in media])
                found[f"{kind}_grid_thw"] = np.array([m.grid for m in media])
                if kind == "video" and "qwen2_5" in self.model.config.model_type:
                    found["second_per_grid_ts"] = np.array([m.seconds_per_grid for m in media])
        return {name: torch.from_numpy(value).to(self.device) for name, value in found.items()}

    @torch.no_grad()
    def disc(self, prompts: Sequence[RenderedPrompt], batch: int) -> Vectors:
        """Discriminative vectors (prompts, dim)."""
        out: list[Tensor] = []
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            inputs = self.inputs(part)
            states = self.model(**inputs, output_hidden_states=True).hidden_states[-1]
            width = states.shape[1]
            places = [width - len(p.ids) + p.disc_index for p in part]
            out.append(states[range(len(part)), places].float().cpu())
        return _unit(torch.cat(out))

    @torch.no_grad()
    def gen(self, prompt: RenderedPrompt, budget: int) -> tuple[Vectors, list[int]]:
        """The greedy answer up to its first `<gen_emb>`, appended where it did not come.

        Returns:
            The vector (dim,) and the answer's ids, `<gen_emb>` included.
        """
        inputs = self.inputs([prompt])
        end = self.special.end
        found = self.model.generate(
            **inputs, max_new_tokens=budget, do_sample=False, use_cache=True,
            eos_token_id=[end, self.special.gen], pad_token_id=end,
        )  # fmt: skip
        ids = found[0, inputs["input_ids"].shape[1] :].tolist()
        ids = [*(i for i in ids if i not in (end, self.special.gen)), self.special.gen]
        # One pass over prompt and answer: the state of `<gen_emb>` itself.
        added = torch.tensor([ids], device=self.device)
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            more = {"input_ids": added, "attention_mask": torch.ones_like(added)}
            inputs[name] = torch.cat([inputs[name], more.get(name, torch.zeros_like(added))], dim=1)
        states = self.model(**inputs, output_hidden_states=True).hidden_states[-1]
        return _unit(states[:, -1].float().cpu())[0], ids

    @torch.no_grad()
    def answers(self, prompts: Sequence[RenderedPrompt], lengths: Sequence[int]) -> Vectors:
        """Gen vectors (prompts, dim) of answers of given lengths, as the recipe takes them."""
        self.script.start(lengths)
        end = self.special.end
        output = self.model.generate(
            **self.inputs(prompts), max_new_tokens=max(lengths) + 1, do_sample=False,
            output_hidden_states=True, return_dict_in_generate=True, use_cache=True,
            eos_token_id=end, pad_token_id=end,
        )  # fmt: skip
        self.script.lengths = []
        return _unit(torch.stack([
            output.hidden_states[length][-1][row, 0].float().cpu()
            for row, length in enumerate(lengths)
        ]))  # fmt: skip


def _unit(states: Tensor) -> Vectors:
    return torch.nn.functional.normalize(states, dim=-1).numpy()
