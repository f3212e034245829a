"""Optimum's view of the export: a task and an `OnnxConfig` per graph.

Written to be offered upstream: importing this module registers both tasks with the TasksManager for
`qwen2_vl` and `qwen2_5_vl`, and Optimum's own `main_export(model, output, task=TASKS[graph])` then
produces that graph. A patcher puts the graph's forward in place of the model's while it is traced.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from optimum.exporters.onnx.base import OnnxConfig
from optimum.exporters.onnx.model_patcher import ModelPatcher
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedConfig

from ume_export.modules import PrefixKV, TextEncoder, VisionEncoder, key_values, vision_layout
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.exported.inputs import OUTPUTS, TEXT, TEXT_INPUTS, VISION, VisionLayout, text_arrays
from ume_qwen.exported.prefix import Prefix, prefix_prompt
from ume_qwen.pack import build_pack
from ume_qwen.patches import VisualInput
from ume_qwen.positions import mrope_positions
from ume_qwen.render import RenderedPrompt

TASKS = {
    VISION: "discriminative-embedding-vision",
    TEXT: "discriminative-embedding-text",
}
# Opset 20 is the newest that Optimum's exporter writes and that TensorRT's table covers; 23 has
# Attention and RMSNormalization, of which parsers know the first only lately.
OPSET = 20
_PREFIX = "ume_prefix"  # attribute of a model that keeps it
_TRACED = b"traced"  # key of the dummy prompts' prefix
for _task in TASKS.values():
    TasksManager._TRANSFORMERS_TASKS_TO_MODEL_LOADERS.setdefault(
        _task, "AutoModelForImageTextToText"
    )
_register = TasksManager.create_register("onnx", overwrite_existing=True)


class _GraphPatcher(ModelPatcher):
    """While it lasts, calling the model calls one graph's module over the same weights."""

    def __init__(self, config: Any, model: Any, model_kwargs: Any = None) -> None:  # noqa: ARG002
        model.forward = self.graph(model).forward
        # What Optimum adds for the model's own forward (`logits_to_keep`) is not ours.
        super().__init__(config, model, {})

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        del self._model.forward  # the class's own again

    @abstractmethod
    def graph(self, model: Any) -> torch.nn.Module:
        """The module that takes the model's place."""


class _VisionPatcher(_GraphPatcher):
    def graph(self, model: Any) -> torch.nn.Module:
        return VisionEncoder(model)


class _TextPatcher(_GraphPatcher):
    def graph(self, model: Any) -> torch.nn.Module:
        return TextEncoder(model, prefix_of(model)[1])


class _DiscConfig(OnnxConfig):
    """What both graphs share."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    DEFAULT_ONNX_OPSET = OPSET
    ATOL_FOR_VALIDATION = 1e-5

    @property
    def layout(self) -> VisionLayout:
        """Of this checkpoint's vision tower."""
        return vision_layout(self._config)


@_register("qwen2_vl", TASKS[VISION])
@_register("qwen2_5_vl", TASKS[VISION])
class QwenVisionOnnxConfig(_DiscConfig):
    """The vision tower on images of one size."""

    _MODEL_PATCHER = _VisionPatcher

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Names and dynamic axes."""
        axes = {
            "pixel_values": {0: "images", 1: "patches"},
            "cos": {0: "patches"},
            "sin": {0: "patches"},
            "window_bias": {0: "patches", 1: "patches"},
        }
        return {name: axes[name] for name in self.layout.inputs}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Visual states (images, tokens, hidden)."""
        return {OUTPUTS[VISION]: {0: "images", 1: "visual_tokens"}}

    def generate_dummy_inputs(self, framework: str = "pt", **_: Any) -> dict[str, Any]:
        """Two images of 4 x 6 patches."""
        media = [_noise(4, 6, seed) for seed in range(2)]
        return _tensors(self.layout.arrays(media), framework)


@_register("qwen2_vl", TASKS[TEXT])
@_register("qwen2_5_vl", TASKS[TEXT])
class QwenTextOnnxConfig(_DiscConfig):
    """The language model up to `<disc_emb>`."""

    _MODEL_PATCHER = _TextPatcher

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Names and dynamic axes."""
        axes = {
            "position_ids": {1: "tokens"},
            "visual_embeds": {0: "visual_tokens"},
            "embed_index": {0: "rows"},
        }
        return {name: axes.get(name, {0: "tokens"}) for name in TEXT_INPUTS}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Unit vectors (rows, hidden)."""
        return {OUTPUTS[TEXT]: {0: "rows"}}

    def generate_dummy_inputs(self, framework: str = "pt", **_: Any) -> dict[str, Any]:
        """Two prompts of different lengths, one with an image, that begin with the prefix."""
        visual = _noise(4, 6, 0)
        hidden = int(self._config.get_text_config().hidden_size)
        rng = np.random.default_rng(0)
        states = {visual.digest: rng.standard_normal((visual.tokens, hidden)).astype(np.float32)}
        pack = build_pack([_prompt([8, visual, 4]), _prompt([13])], cached={_TRACED})
        return _tensors(text_arrays(pack, states, hidden=hidden), framework)


def onnx_config(graph: str, config: Any) -> OnnxConfig:
    """A graph's `OnnxConfig` for a transformers config."""
    kind = {VISION: QwenVisionOnnxConfig, TEXT: QwenTextOnnxConfig}[graph]
    return kind(config, task=TASKS[graph])


def prefix_of(model: Any) -> tuple[Prefix, PrefixKV]:
    """The prefix of a checkpoint's prompts; computed once per model, which needs its vision tower.

    Args:
        model: transformers' model, as loaded from a checkpoint.
    """
    if not hasattr(model, _PREFIX):
        prompt = prefix_prompt(find_checkpoint(model.name_or_path))
        setattr(model, _PREFIX, (Prefix.of(prompt), key_values(model, prompt)))
    return getattr(model, _PREFIX)


def _noise(h: int, w: int, seed: int) -> VisualInput:
    patches = np.random.default_rng(seed).standard_normal((h * w, 1176)).astype(np.float32)
    return VisualInput(patches, (1, h, w), "image", bytes([seed]) * 16)


def _prompt(spans: list[int | VisualInput]) -> RenderedPrompt:
    ids: list[int] = []
    starts: list[int] = []
    for span in spans:
        if not isinstance(span, int):
            starts.append(len(ids))
        ids += [5] * (span if isinstance(span, int) else span.tokens)
    media = tuple(s for s in spans if not isinstance(s, int))
    return RenderedPrompt(
        np.array(ids), mrope_positions(spans), media, tuple(starts), len(ids) - 1, 3, _TRACED
    )


def _tensors(arrays: dict[str, Any], framework: str) -> dict[str, Any]:
    if framework == "np":
        return arrays
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
