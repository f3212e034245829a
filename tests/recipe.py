"""The published recipe, written out as the parity oracle: one item at a time, plain transformers.

Follows the README's code with its three accidents repaired: `fps` is taken from
`process_vision_info` (transformers 5.x ignores it and assumes 24); when `<gen_emb>` never came or
is the last token, the state is that of one more forward pass over `<gen_emb>`; and the videos,
which `process_vision_info` already resized, are not resized again by processors newer than it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import qwen_vl_utils.vision_process as vision_process
import torch
from qwen_vl_utils import process_vision_info
from transformers import AutoProcessor

from ume_core.prompts import PROMPTS
from ume_core.results import Vectors

GEN, DISC = "<gen_emb>", "<disc_emb>"


def read_video_like_torchvision(ele: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any], float]:
    """torchvision <= 0.25's `io.read_video` (PyAV, `to_rgb`), which the recipe read videos with."""
    import av

    with av.open(ele["video"].removeprefix("file://")) as container:
        rate = float(container.streams.video[0].average_rate)
        frames = [f.to_rgb().to_ndarray() for f in container.decode(video=0)]
    video = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    count = vision_process.smart_nframes(ele, total_frames=len(video), video_fps=rate)
    index = torch.linspace(0, len(video) - 1, count).round().long()
    sample_fps = count / max(len(video), 1e-6) * rate
    return video[index], {"fps": rate, "frames_indices": index}, sample_fps


class Recipe:
    """A checkpoint in plain transformers, float32 on the CPU."""

    def __init__(self, directory: Path, kind: str) -> None:
        import transformers

        name = {
            "qwen2_vl": "Qwen2VLForConditionalGeneration",
            "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
        }[kind]
        self.model: Any = getattr(transformers, name).from_pretrained(
            directory, torch_dtype=torch.float32, attn_implementation="sdpa"
        )
        self.processor: Any = AutoProcessor.from_pretrained(directory)
        vocabulary = self.processor.tokenizer.get_vocab()
        self.gen_id, self.disc_id = vocabulary[GEN], vocabulary[DISC]
        backends: dict[str, Any] = vision_process.VIDEO_READER_BACKENDS
        backends["torchvision"] = read_video_like_torchvision
        vision_process.get_video_reader_backend = lambda: "torchvision"

    def inputs(self, content: list[dict[str, Any]], gen: bool) -> Any:
        """Processor output for media elements and one final text, as the README lays them out."""
        ending = f"\n{DISC}\n" + (PROMPTS["readme"].generation if gen else "")
        content = [*content[:-1], {"type": "text", "text": content[-1]["text"] + ending}]
        messages = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        found: Any = process_vision_info(messages, return_video_kwargs=True)
        images, videos, video_kwargs = found
        extra: dict[str, Any] = {}
        if videos and video_kwargs:
            extra = {"videos_kwargs": {"do_resize": False, "do_sample_frames": False}}
            extra["videos_kwargs"]["fps"] = video_kwargs["fps"][0]
        inputs = self.processor(
            text=[text], images=images, videos=videos, padding=True, return_tensors="pt", **extra
        )
        if video_kwargs and "second_per_grid_ts" in inputs:
            inputs["second_per_grid_ts"] = torch.tensor([2.0 / f for f in video_kwargs["fps"]])
        return inputs

    @torch.no_grad()
    def disc(self, content: list[dict[str, Any]]) -> Vectors:
        """The README's discriminative embedding, float32 (dim,)."""
        inputs = self.inputs(content, gen=False)
        output = self.model(**inputs, output_hidden_states=True, return_dict=True)
        ids = inputs["input_ids"][0].tolist()
        index = len(ids) - 1 - ids[::-1].index(self.disc_id)
        return _unit(output.hidden_states[-1][0, index])

    @torch.no_grad()
    def gen(self, content: list[dict[str, Any]], budget: int) -> tuple[Vectors, list[int]]:
        """The README's generative embedding and its generated tokens, greedy."""
        inputs = self.inputs(content, gen=True)
        output = self.model.generate(
            **inputs,
            max_new_tokens=budget,
            do_sample=False,
            output_hidden_states=True,
            return_dict_in_generate=True,
            use_cache=True,
        )
        tokens = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        if self.gen_id in tokens:
            place = tokens.index(self.gen_id)
            if place + 1 < len(output.hidden_states):
                return _unit(output.hidden_states[place + 1][-1][0, -1]), tokens[: place + 1]
            tokens = tokens[:place]
        tokens = [t for t in tokens if t not in (151645, 151643)]
        # One forward pass over prompt, answer and <gen_emb>, without a cache.
        added = torch.tensor([[*tokens, self.gen_id]])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], added], dim=1)
        for name in ("attention_mask", "mm_token_type_ids"):
            if name in inputs:
                fill = torch.full_like(added, int(name == "attention_mask"))
                inputs[name] = torch.cat([inputs[name], fill], dim=1)
        full = self.model(**inputs, output_hidden_states=True)
        return _unit(full.hidden_states[-1][0, -1]), [*tokens, self.gen_id]


def _unit(state: torch.Tensor) -> Vectors:
    return torch.nn.functional.normalize(state, p=2, dim=-1).numpy()
