"""The published recipes, written out as the parity oracle: one item at a time, plain transformers.

`Recipe(…, "readme")` follows the README's code, `Recipe(…, "official")` the evaluation's
(`eval_collator.py`), with the request as it stands in each file, whichever qwen-vl-utils is
installed (the main environment has 0.0.14, export's the 0.0.11 of upstream's `setup.sh`). Three
accidents are repaired: `fps` is taken from
`process_vision_info` (transformers 5.x ignores it and assumes 24); when `<gen_emb>` never came or
is the last token, the state is that of one more forward pass over `<gen_emb>`; and the videos,
which `process_vision_info` already resized, are not resized again by processors newer than it.
"""

from __future__ import annotations

import base64
import io
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import qwen_vl_utils.vision_process as vision_process
import torch
from PIL import Image as PILImage
from qwen_vl_utils import process_vision_info
from transformers import AutoProcessor

from ume_core.results import Vectors

GEN, DISC = "<gen_emb>", "<disc_emb>"
UTILS = version("qwen-vl-utils")
# README.md and demo/*.py; the first two lines end in a space.
README_PROMPT = """Represent the above input text, images, videos, or any combination of the three as embeddings.\x20
First output the thinking process in <think> </think> tags and then summarize the entire input in a word or sentence.\x20
Finally, use the <gen_emb> tag to represent the entire input."""  # noqa: E501
# src/eval/VLM2Vec/src/data/collator/eval_collator.py
GENERATION_PROMPT = "Represent the above input text, images, videos, or any combination of the three as embeddings. First output the thinking process in <think> </think> tags and then summarize the entire input in a word or sentence. Finally, use the <gen_emb> tag to represent the entire input."  # noqa: E501
REQUESTS = {"readme": README_PROMPT, "official": GENERATION_PROMPT}


def read_video_like_torchvision(ele: dict[str, Any]) -> tuple[Any, ...]:
    """torchvision <= 0.25's `io.read_video` (PyAV, `to_rgb`), which the recipe read videos with."""
    import av

    with av.open(ele["video"].removeprefix("file://")) as container:
        rate = float(container.streams.video[0].average_rate)
        frames = [f.to_rgb().to_ndarray() for f in container.decode(video=0)]
    video = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    count = vision_process.smart_nframes(ele, total_frames=len(video), video_fps=rate)
    index = torch.linspace(0, len(video) - 1, count).round().long()
    sample_fps = count / max(len(video), 1e-6) * rate
    if UTILS == "0.0.11":
        return video[index], sample_fps
    return video[index], {"fps": rate, "frames_indices": index}, sample_fps


class Recipe:
    """A checkpoint in plain transformers, float32 on the CPU, under one of the two conventions."""

    def __init__(self, directory: Path, kind: str, conventions: str = "official") -> None:
        import transformers

        self.conventions = conventions
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

    def content(self, content: list[dict[str, Any]], gen: bool) -> list[dict[str, Any]]:
        """What a user of the published code types: media elements and one text with the request."""
        *media, last = content
        text = last["text"]
        if self.conventions == "official":
            if media:
                text = text.replace("<|image_pad|>", "").replace("<|video_pad|>", "").strip()
            else:
                media = [_blank()]
        ending = f"\n{DISC}\n" + (REQUESTS[self.conventions] if gen else "")
        return [*media, {"type": "text", "text": text + ending}]

    def inputs(self, content: list[dict[str, Any]], gen: bool) -> Any:
        """Processor output for media elements and one final text."""
        content = self.content(content, gen)
        messages = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        found: Any = process_vision_info(messages, return_video_kwargs=True)
        images, videos, video_kwargs = found
        if self.conventions == "official" and images:
            images = [self._as_the_processor(image) for image in images]
        if videos and UTILS == "0.0.11":
            videos = [self._frames(video) for video in videos]
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

    def _as_the_processor(self, image: Any) -> Any:
        """Resized as transformers 4.49's processor does, with Pillow; newer ones use torchvision.

        The evaluation's bounds are 784 to 2,359,296; the test checkpoints' own least is 3,136.
        """
        height, width = vision_process.smart_resize(
            image.height, image.width, factor=28, min_pixels=3136, max_pixels=2_359_296
        )
        return image.resize((width, height), PILImage.Resampling.BICUBIC)

    def _frames(self, video: Any) -> torch.Tensor:
        """qwen-vl-utils 0.0.11 gives a file as a tensor and a list as pictures."""
        if isinstance(video, torch.Tensor):
            return video
        if self.conventions == "official":
            video = [self._as_the_processor(frame) for frame in video]
        return torch.from_numpy(np.stack([np.asarray(f) for f in video])).permute(0, 3, 1, 2)

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


def _blank() -> dict[str, Any]:
    """The collator's white picture."""
    buffer = io.BytesIO()
    PILImage.new("RGB", (28, 28), (255, 255, 255)).save(buffer, format="JPEG")
    data = base64.b64encode(buffer.getvalue()).decode("utf-8")
    return {"type": "image", "image": f"data:image;base64,{data}"}


def _unit(state: torch.Tensor) -> Vectors:
    return torch.nn.functional.normalize(state, p=2, dim=-1).numpy()
