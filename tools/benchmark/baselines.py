"""What we are compared with: the published recipe, sentence-transformers, mteb's wrapper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tools.benchmark.cases import Sample
from ume_core.prompts import PROMPTS
from ume_core.results import Vectors

WORD = 300  # any ordinary token


class ScriptedHead:
    """Makes a transformers model say answers of given lengths, at the price of real logits."""

    def __init__(self, model: Any, vocabulary: dict[str, int]) -> None:
        self.lengths: list[int] = []
        self._step = 0
        self._gen, self._end = vocabulary["<gen_emb>"], vocabulary["<|im_end|>"]
        model.lm_head.register_forward_hook(self._force)

    def start(self, lengths: Sequence[int]) -> None:
        """The next batch's answers have these lengths, `<gen_emb>` included."""
        self.lengths, self._step = list(lengths), 0

    def _force(self, _module: Any, _args: Any, logits: Tensor) -> Tensor:
        if not self.lengths:
            return logits
        for row, length in enumerate(self.lengths):
            left = length - 1 - self._step
            logits[row, -1, WORD if left > 0 else self._gen if left == 0 else self._end] = 1e4
        self._step += 1
        return logits


class Upstream:
    """The README's code on plain transformers, in batches of `batch`, in the given order."""

    def __init__(self, directory: Path, dtype: torch.dtype, device: str) -> None:
        from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

        model: Any = Qwen2VLForConditionalGeneration.from_pretrained(
            directory, torch_dtype=dtype, attn_implementation="sdpa"
        )
        self.model = model.to(device).eval()
        self.processor: Any = AutoProcessor.from_pretrained(directory)
        self.vocabulary: dict[str, int] = self.processor.tokenizer.get_vocab()
        self.script = ScriptedHead(self.model, self.vocabulary)
        self.device = device

    def _inputs(self, samples: Sequence[Sample], gen: bool) -> Any:
        ending = "\n<disc_emb>\n" + (PROMPTS["readme"].generation if gen else "")
        conversations: list[Any] = []
        for sample in samples:
            last = {"type": "text", "text": sample.content[-1]["text"] + ending}
            conversations.append([{"role": "user", "content": [*sample.content[:-1], last]}])
        texts = [
            self.processor.apply_chat_template(c, tokenize=False, add_generation_prompt=True)
            for c in conversations
        ]
        images, videos = _media(conversations)
        # process_vision_info has resized the videos; processors newer than it would do so again.
        extra = {"videos_kwargs": {"do_resize": False, "do_sample_frames": False}} if videos else {}
        return self.processor(
            text=texts, images=images, videos=videos, padding=True, return_tensors="pt", **extra
        ).to(self.device)

    @torch.no_grad()
    def disc(self, samples: Sequence[Sample], batch: int) -> Vectors:
        """Discriminative vectors (items, dim)."""
        self.script.lengths = []
        out: list[Tensor] = []
        for start in range(0, len(samples), batch):
            inputs = self._inputs(samples[start : start + batch], gen=False)
            output = self.model(**inputs, output_hidden_states=True, return_dict=True)
            rows, places = torch.nonzero(
                inputs["input_ids"] == self.vocabulary["<disc_emb>"], as_tuple=True
            )
            out.append(output.hidden_states[-1][rows, places].float().cpu())
        return torch.nn.functional.normalize(torch.cat(out), dim=-1).numpy()

    @torch.no_grad()
    def gen(
        self, samples: Sequence[Sample], lengths: Sequence[int], batch: int, copies: int = 1
    ) -> Vectors:
        """Generative vectors (items * copies, dim) of scripted answers."""
        out: list[Tensor] = []
        for start in range(0, len(samples), batch):
            inputs = self._inputs(samples[start : start + batch], gen=True)
            part = [n for n in lengths[start : start + batch] for _ in range(copies)]
            self.script.start(part)
            end = self.vocabulary["<|im_end|>"]
            output = self.model.generate(
                **inputs, max_new_tokens=8192, do_sample=copies > 1, output_hidden_states=True,
                return_dict_in_generate=True, use_cache=True, num_return_sequences=copies,
                top_k=0, eos_token_id=end, pad_token_id=end,
            )  # fmt: skip
            for row, length in enumerate(part):
                out.append(output.hidden_states[length][-1][row, 0].float().cpu())
        self.script.lengths = []
        return torch.nn.functional.normalize(torch.stack(out), dim=-1).numpy()


def _media(conversations: list[Any]) -> tuple[Any, Any]:
    """The recipe's reading of media; without qwen-vl-utils, images as they are.

    Those of `cases` have sides of whole patches within its bounds, which it would not resize.
    """
    try:
        from qwen_vl_utils import process_vision_info
    except ImportError:
        elements = [e for turns in conversations for turn in turns for e in turn["content"]]
        if any(e["type"] == "video" for e in elements):
            raise
        return [e["image"] for e in elements if e["type"] == "image"] or None, None
    found: Any = process_vision_info(conversations)
    return found


class Native:
    """sentence-transformers on a directory `ume export` wrote."""

    def __init__(self, directory: Path, dtype: torch.dtype, device: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(
            str(directory), device=device, model_kwargs={"torch_dtype": dtype}
        )

    def disc(self, samples: Sequence[Sample], batch: int) -> Vectors:
        """Discriminative vectors (items, dim)."""
        messages: list[Any] = [[{"role": "user", "content": s.content}] for s in samples]
        return np.asarray(self.model.encode(messages, batch_size=batch, show_progress_bar=False))


class Mteb:
    """mteb's `UMER1Wrapper` (gen, bfloat16 only)."""

    def __init__(self, directory: Path, device: str) -> None:
        from mteb.models.model_implementations.ume_r1 import UMER1Wrapper

        self.wrapper = UMER1Wrapper(str(directory), device=device)
        self.script = ScriptedHead(self.wrapper.model, self.wrapper.processor.tokenizer.get_vocab())

    def gen(self, samples: Sequence[Sample], lengths: Sequence[int], batch: int) -> Vectors:
        """Generative vectors (items, dim) of scripted answers."""
        out: list[Vectors] = []
        for start in range(0, len(samples), batch):
            part = samples[start : start + batch]
            self.script.start(lengths[start : start + batch])
            rows = {
                "text": [s.content[-1]["text"] for s in part],
                "image": [s.content[0]["image"] for s in part],
            }
            metadata: Any = None
            loader: Any = _OneBatch(rows)
            found = self.wrapper.encode(
                loader, task_metadata=metadata, hf_split="test", hf_subset="default",
                show_progress_bar=False,
            )  # fmt: skip
            out.append(np.asarray(found))
        return np.concatenate(out)


class _OneBatch:
    """What the wrapper reads of a DataLoader."""

    def __init__(self, rows: dict[str, list[Any]]) -> None:
        self.dataset = type("Dataset", (), {"features": rows})
        self._rows = rows

    def __iter__(self) -> Any:
        return iter([self._rows])

    def __len__(self) -> int:
        return 1
