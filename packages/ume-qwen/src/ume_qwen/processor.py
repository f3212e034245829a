"""The image and video processors' settings, from whichever file transformers would take them.

As in transformers 5.x: `image_processor` and `video_processor` of processor_config.json, else
preprocessor_config.json and video_preprocessor_config.json; a video processor without settings of
its own has the image processor's. transformers 4.57 takes the files in the reverse order: where
both exist and say different things, a warning names the one that is passed over.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ume_core.errors import CheckpointError
from ume_qwen.files import optional_json
from ume_qwen.patches import DEFAULT_MAX_PIXELS, DEFAULT_MIN_PIXELS, PatchConfig
from ume_qwen.rules import OBEYED, Rule, check_keys, each, ignored, only
from ume_qwen.sizes import (
    MERGE,
    PATCH,
    TEMPORAL_PATCH,
    VIDEO_MAX_PIXELS,
    VIDEO_MIN_PIXELS,
)

PROCESSOR, IMAGE, VIDEO = (
    "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
PROCESSOR_FILES = (PROCESSOR, IMAGE, VIDEO)
_BICUBIC = 3  # PIL.Image.Resampling.BICUBIC

_COMMON: dict[str, Rule] = (
    each("size min_pixels max_pixels do_rescale rescale_factor do_normalize image_mean image_std",
         OBEYED)
    | {
        "patch_size": only(PATCH, why="the vision tower's patches"),
        "temporal_patch_size": only(TEMPORAL_PATCH, why="the vision tower's patches"),
        "merge_size": only(MERGE, why="the vision tower's merger"),
        "do_resize": only(True, why="pictures must have sides of whole patches"),
        "resample": only(_BICUBIC, why="pictures are resized bicubically, as the recipe does"),
        "do_convert_rgb": only(True, why="every picture is made RGB"),
    }
    | each("crop_size do_center_crop do_pad pad_size default_to_square",
           ignored("Qwen2-VL's processors never crop or pad"))
    | each("data_format input_data_format device disable_grouping return_tensors return_metadata "
           "video_metadata", ignored("how a call of transformers takes and returns arrays"))
    | each("processor_class _processor_class _valid_kwargs_names model_input_names",
           ignored("a note"))
    | {"auto_map": ignored("code of a checkpoint is never run, as transformers does by default")}
)  # fmt: skip
IMAGE_RULES: dict[str, Rule] = _COMMON | {
    "image_processor_type": only(
        "Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil", None,
        why="the architecture's image processor",
    ),
}  # fmt: skip
VIDEO_RULES: dict[str, Rule] = (
    _COMMON
    | {
        "video_processor_type": only(
            "Qwen2VLVideoProcessor", None, why="the architecture's video processor"
        ),
        "do_sample_frames": only(False, None, why="frames are sampled as the recipe does"),
        "max_video_tokens": only(128_000, None, why="qwen-vl-utils' VIDEO_TOTAL_PIXELS"),
        "cap_pixels_per_frame": ignored("frames are always capped, as qwen-vl-utils does"),
    }
    | each("fps num_frames min_frames max_frames", ignored("count only with do_sample_frames"))
    | each("image_processor_type use_token_compression",
           ignored("not a setting of Qwen2-VL's video processor"))
)  # fmt: skip
PROCESSOR_RULES: dict[str, Rule] = (
    each("image_processor video_processor chat_template", OBEYED)
    | each("processor_class", ignored("a note"))
    | {"auto_map": ignored("code of a checkpoint is never run, as transformers does by default")}
)


def read_patch_config(directory: Path) -> PatchConfig:
    """The settings by which a checkpoint's pictures and videos become patches.

    Raises:
        CheckpointError: there are none, or one that the engines do not follow; it names key and
            value.
    """
    nested = optional_json(directory / PROCESSOR)
    check_keys(PROCESSOR, nested, PROCESSOR_RULES)
    image_file, video_file = optional_json(directory / IMAGE), optional_json(directory / VIDEO)
    image = _settings(nested, "image_processor", image_file)
    if image is None and not (directory / IMAGE).is_file():
        raise CheckpointError(
            f"{directory} has no {IMAGE}, and no image_processor in a {PROCESSOR}",
            fix=f"copy {IMAGE} from the published checkpoint",
        )
    found = _read(*(image or (IMAGE, {})), IMAGE_RULES, (DEFAULT_MIN_PIXELS, DEFAULT_MAX_PIXELS))
    _warn_if_passed_over(nested, "image_processor", IMAGE, image_file, found)
    video = _settings(nested, "video_processor", video_file)
    if video is None:
        return found
    for_video = _read(*video, VIDEO_RULES, (VIDEO_MIN_PIXELS, VIDEO_MAX_PIXELS))
    mine, theirs = (_values(c) for c in (found, for_video))
    if mine != theirs:
        raise CheckpointError(
            f"{video[0]}: videos have other pixel values than images (rescale_factor, image_mean "
            f"and image_std: {theirs} against {mine})",
            fix="give both processors the same do_rescale, do_normalize, mean and deviation",
        )
    return replace(found, video_pixels=(for_video.min_pixels, for_video.max_pixels))


def _settings(
    nested: Mapping[str, Any], key: str, file: dict[str, Any]
) -> tuple[str, dict[str, Any]] | None:
    """Where settings stand, and they; None where neither place has any."""
    inside: object = nested.get(key)
    if inside is not None:
        if not isinstance(inside, dict):
            raise CheckpointError(f"{PROCESSOR}: {key} is not a JSON object", fix="replace it")
        return f"{PROCESSOR}: {key}", cast("dict[str, Any]", inside)
    return (IMAGE if key == "image_processor" else VIDEO, file) if file else None


def _read(
    where: str, settings: Mapping[str, Any], rules: Mapping[str, Rule], bounds: tuple[int, int]
) -> PatchConfig:
    check_keys(where, settings, rules)
    low, high = _bounds(where, settings, bounds)
    factor, mean, std = 1.0, (0.0,) * 3, (1.0,) * 3
    if _flag(where, settings, "do_rescale"):
        (factor, *_) = _numbers(where, settings, "rescale_factor", (PatchConfig.rescale_factor,))
    if _flag(where, settings, "do_normalize"):
        mean = _numbers(where, settings, "image_mean", PatchConfig.mean)
        std = _numbers(where, settings, "image_std", PatchConfig.std)
    if factor <= 0 or min(std) <= 0:
        raise CheckpointError(
            f"{where}: rescale_factor is {settings.get('rescale_factor', factor)!r} and image_std "
            f"{settings.get('image_std', std)!r}; both must be positive",
            fix="take the file from the published checkpoint",
        )
    return PatchConfig(low, high, mean, std, factor)


def _bounds(where: str, settings: Mapping[str, Any], default: tuple[int, int]) -> tuple[int, int]:
    """Least and most pixels: `size`, each end replaced by min_pixels or max_pixels."""
    size: object = settings.get("size")
    ends: dict[str, Any] = dict(zip(("shortest_edge", "longest_edge"), default, strict=True))
    if isinstance(size, dict):
        ends = dict(cast("dict[str, Any]", size))
    elif size is not None:
        ends = {"size": size}
    for key, end in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        if settings.get(key) is not None:
            ends[end] = settings[key]
            ends.pop(key, None)
    numbers = [ends.get(end) for end in ("shortest_edge", "longest_edge")]
    whole = [int(n) for n in numbers if isinstance(n, (int, float)) and n >= 1 and n == int(n)]
    if len(ends) != 2 or len(whole) != 2 or whole[0] > whole[1]:
        raise CheckpointError(
            f"{where}: size {size!r} with min_pixels {settings.get('min_pixels')!r} and max_pixels "
            f"{settings.get('max_pixels')!r} does not give a least and a most number of pixels",
            fix='write "size": {"shortest_edge": LEAST, "longest_edge": MOST}',
        )
    return whole[0], whole[1]


def _flag(where: str, settings: Mapping[str, Any], key: str) -> bool:
    """Whether a step is done: by default it is, and null is off, as in transformers."""
    value: object = settings.get(key, True)
    if value not in (None, True, False):
        raise CheckpointError(f"{where}: {key} is {value!r}", fix=f"set {key} to true or false")
    return bool(value)


def _numbers(
    where: str, settings: Mapping[str, Any], key: str, default: tuple[float, ...]
) -> tuple[float, ...]:
    """A number for all channels, or one for each; three of them."""
    value: object = settings.get(key, list(default))
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    finite = [float(v) for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
    if len(finite) != len(values) or len(finite) not in (1, 3):
        raise CheckpointError(
            f"{where}: {key} is {value!r}, neither a number nor one for each of three channels",
            fix="take the file from the published checkpoint",
        )
    return tuple(finite * 3)[:3]


def _values(config: PatchConfig) -> tuple[Any, ...]:
    return config.rescale_factor, config.mean, config.std


def _warn_if_passed_over(
    nested: Mapping[str, Any], key: str, name: str, file: dict[str, Any], found: PatchConfig
) -> None:
    if nested.get(key) is None or not file:
        return
    try:
        other = _read(name, file, IMAGE_RULES, (DEFAULT_MIN_PIXELS, DEFAULT_MAX_PIXELS))
    except CheckpointError:
        other = None
    if other != found:
        warnings.warn(
            f"{name} is passed over: {key} in {PROCESSOR} says otherwise, and wins as in "
            "transformers 5",
            RuntimeWarning,
            stacklevel=2,
        )
