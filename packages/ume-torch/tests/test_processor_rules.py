"""Processor settings, tokenizer and chat template against AutoProcessor on the same directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image as PILImage

from ume_core import Image, LoadOptions
from ume_core.errors import CheckpointError
from ume_core.fetch import Access
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.patches import Patchifier
from ume_qwen.prepare import Preparer
from ume_qwen.template import compile_template, render_template

from .conftest import Make, copy, edit

FIVE = transformers.__version__.startswith("5.")
PICTURE = PILImage.fromarray(
    np.random.default_rng(0).integers(0, 255, (112, 140, 3), dtype=np.uint8)
)
PRE, PROC, VIDEO = (
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
CONTENT = [{"type": "image", "image": "x"}, {"type": "text", "text": "a dog & <b>\n"}]


def theirs(directory: Path) -> Any:
    return transformers.AutoProcessor.from_pretrained(directory)


def pixels(directory: Path) -> tuple[np.ndarray, list[int]]:
    """Patches as the checkpoint's settings alone make them, without a convention's bounds."""
    visual = Patchifier(find_checkpoint(directory).patches, Access())(Image(PICTURE))
    return visual.patches, list(visual.grid)


def check_pixels(directory: Path) -> None:
    """Equal but for torchvision's resize, which rounds some bytes otherwise than Pillow's."""
    wanted = theirs(directory).image_processor(PICTURE, return_tensors="pt")
    patches, grid = pixels(directory)
    assert grid == wanted["image_grid_thw"][0].tolist()
    values = wanted["pixel_values"].numpy()
    scale = max(1.0, float(np.abs(values).max()) / 3)
    difference = np.abs(patches - values) / scale
    assert difference.max() < 0.03 and difference.mean() < 1e-3


@pytest.mark.parametrize(
    ("drop", "new"),
    [
        ((), {}),
        ((), {"do_normalize": False}),
        ((), {"do_rescale": False}),
        ((), {"do_rescale": False, "do_normalize": False}),
        ((), {"rescale_factor": 1 / 127.5}),
        ((), {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}),
        ((), {"image_mean": 0.5, "image_std": [0.25]}),
        ((), {"do_normalize": None, "size": None}),
        ((), {"do_rescale": None}),
        ((), {"min_pixels": 784, "max_pixels": 12544}),
        ((), {"min_pixels": None, "max_pixels": 12544}),
        ((), {"min_pixels": None, "max_pixels": None,
              "size": {"shortest_edge": 784, "longest_edge": 12544}}),
        ((), {"max_pixels": 12544, "size": {"shortest_edge": 784, "longest_edge": 50176}}),
        ((), {"size": {"min_pixels": 784, "max_pixels": 12544}}),
        (("size",), {"min_pixels": 50176, "max_pixels": 100352}),
        (("size",), {"max_pixels": 6272}),
        ((), {"do_center_crop": True, "crop_size": {"height": 28, "width": 28}, "do_pad": True}),
        ((), {"image_processor_type": "Qwen2VLImageProcessorFast", "return_tensors": "pt"}),
    ],
)  # fmt: skip
def test_settings_are_obeyed_as_transformers_does(
    mini: Make, tmp_path: Path, drop: tuple[str, ...], new: dict[str, Any]
) -> None:
    directory = copy(mini(), tmp_path / "c")
    edit(directory / PRE, *drop, **new)
    check_pixels(directory)


@pytest.mark.parametrize(
    ("key", "value"),
    [("resample", 0), ("resample", 2), ("resample", None), ("do_resize", None),
     ("do_convert_rgb", None), ("image_mean", None), ("patch_size", None), ("do_resize", False),
     ("do_convert_rgb", False),
     ("patch_size", 16), ("temporal_patch_size", 1), ("merge_size", 1),
     ("image_processor_type", "CLIPImageProcessor"), ("rescale_factor", 0),
     ("image_std", [0.0, 1.0, 1.0]), ("image_mean", [0.5, 0.5]), ("do_normalize", "no"),
     ("max_pixels", "many"), ("max_pixels", 100), ("size", 500)],
)  # fmt: skip
@pytest.mark.parametrize("where", [PRE, PROC])
def test_what_is_not_followed_is_refused_by_key_and_value(
    mini: Make, tmp_path: Path, where: str, key: str, value: Any
) -> None:
    directory = copy(mini(), tmp_path / "c")
    settings = json.loads((directory / PRE).read_text()) | {key: value}
    if key == "size":
        settings |= {"min_pixels": None, "max_pixels": None}
    (directory / PRE).unlink()
    found = settings if where == PRE else {"image_processor": settings}
    (directory / where).write_text(json.dumps(found))
    shown = repr(value)
    with pytest.raises(CheckpointError) as error:
        find_checkpoint(directory)
    assert key in str(error.value) and shown in str(error.value) and "Fix" in str(error.value)


@pytest.mark.parametrize(
    "size",
    [{"longest_edge": 12544}, {"height": 56, "width": 56}, {"min_pixels": 1, "max_pixels": 9}, 500],
)
def test_sizes_that_transformers_refuses_are_refused(mini: Make, tmp_path: Path, size: Any) -> None:
    directory = copy(mini(), tmp_path / "c")
    edit(directory / PRE, "min_pixels", "max_pixels", size=size)
    with pytest.raises((ValueError, TypeError)):
        theirs(directory).image_processor(PICTURE, return_tensors="pt")
    with pytest.raises(CheckpointError, match="size"):
        find_checkpoint(directory)


def nest(directory: Path, **images: Any) -> None:
    """processor_config.json as transformers 5.x writes it."""
    kept = json.loads((directory / PRE).read_text())
    kept = {k: v for k, v in kept.items() if k not in ("min_pixels", "max_pixels")}
    nested = {"image_processor": kept | images, "video_processor": {"size": kept["size"]}}
    (directory / PROC).write_text(json.dumps(nested))


def test_the_nested_settings_win_and_a_warning_names_the_others(mini: Make, tmp_path: Path) -> None:
    directory = copy(mini(), tmp_path / "c")
    nest(directory, size={"shortest_edge": 784, "longest_edge": 12544})
    with pytest.warns(RuntimeWarning, match="preprocessor_config.json is passed over"):
        _, grid = pixels(directory)
    assert grid == [1, 6, 8]
    if FIVE:
        check_pixels(directory)
    (directory / PRE).unlink()
    check_pixels(directory)


def test_nested_settings_that_are_null_give_way(mini: Make, tmp_path: Path) -> None:
    directory = copy(mini(), tmp_path / "c")
    edit(directory / PROC, processor_class="Qwen2VLProcessor", image_processor=None)
    edit(directory / PRE, max_pixels=12544)
    assert pixels(directory)[1] == [1, 6, 8]
    if FIVE:
        check_pixels(directory)


def test_without_any_settings_a_directory_is_refused(mini: Make, tmp_path: Path) -> None:
    directory = copy(mini(), tmp_path / "c", PRE)
    edit(directory / PROC, processor_class="Qwen2VLProcessor")
    with pytest.raises(CheckpointError, match=r"has no preprocessor_config\.json"):
        find_checkpoint(directory)


def test_video_settings_are_read_from_their_own_file(mini: Make, tmp_path: Path) -> None:
    source = mini()
    assert find_checkpoint(source).patches.video_bounds is None
    bounds = {"min_pixels": 3136, "max_pixels": 12544}
    forms: list[tuple[str, dict[str, Any]]] = [
        (VIDEO, bounds),
        (PROC, {"video_processor": bounds}),
        (PRE, json.loads((source / PRE).read_text()) | bounds),
    ]
    for name, settings in forms:
        directory = copy(source, tmp_path / name)
        (directory / name).write_text(json.dumps(settings))
        found = find_checkpoint(directory)
        assert found.patches.video_bounds == (3136, 12544)
        assert found.digest() != find_checkpoint(source).digest()


@pytest.mark.parametrize(
    ("key", "value"),
    [("do_sample_frames", True), ("image_mean", [0.5] * 3), ("do_normalize", False),
     ("resample", 2), ("video_processor_type", "Other"), ("max_video_tokens", 9)],
)  # fmt: skip
def test_video_settings_that_are_not_followed_are_refused(
    mini: Make, tmp_path: Path, key: str, value: Any
) -> None:
    directory = copy(mini(), tmp_path / "c")
    settings = {"min_pixels": 3136, "max_pixels": 12845056} | {key: value}
    (directory / VIDEO).write_text(json.dumps(settings))
    named = "image_mean" if key == "do_normalize" else key
    with pytest.raises(CheckpointError, match=rf"video_preprocessor_config\.json.*{named}"):
        find_checkpoint(directory)


def rendered(directory: Path) -> str:
    checkpoint = find_checkpoint(directory)
    prepare = Preparer(checkpoint, LoadOptions())
    template = compile_template(checkpoint.chat_template)
    return render_template(template, CONTENT, **prepare.tokenizer.named)


def check_rendered(directory: Path) -> None:
    wanted = theirs(directory).apply_chat_template(
        [{"role": "user", "content": CONTENT}], tokenize=False, add_generation_prompt=True
    )
    assert rendered(directory) == wanted


TEXT = "{{ content['text'] }}"


@pytest.mark.parametrize(
    "change",
    [
        (TEXT, "{% generation %}" + TEXT + "{% endgeneration %}"),
        (TEXT, "{%- generation -%}\n  " + TEXT + "{%- endgeneration -%}"),
        ("{% for message in messages %}", "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|"
         "{{ unk_token }}|{{ tools }}{{ documents }}{% for message in messages %}"),
        ("{% for message in messages %}", "{% for m in [1, 2, 3] %}{% if m == 2 %}{% continue %}"
         "{% endif %}{{ m }}{% if m == 3 %}{% break %}{% endif %}{% endfor %}"
         "{% for message in messages %}"),
        ("{% for message in messages %}", "{{ {'k': '<é>&', 'b': [1, none]} | tojson }}"
         "{{ {'b': 1, 'a': 2} | tojson(indent=2, sort_keys=true) }}{% for message in messages %}"),
        ("{% for message in messages %}", "{% set ns = namespace(n=0) %}{% generation %}"
         "{% set ns.n = 7 %}{% set out = 1 %}{% endgeneration %}{{ ns.n }}{{ out is defined }}"
         "{% for message in messages %}"),
        ("{% for message in messages %}", "{% if messages | length > 9 %}"
         "{{ raise_exception('no') }}{% endif %}{% for message in messages %}"),
    ],
    ids=["generation", "trimmed", "tokens", "loops", "tojson", "scope", "raise"],
)  # fmt: skip
def test_templates_render_as_transformers_renders_them(
    mini: Make, tmp_path: Path, change: tuple[str, str]
) -> None:
    directory = copy(mini(), tmp_path / "c")
    template = json.loads((directory / "chat_template.json").read_text())["chat_template"]
    assert change[0] in template
    edit(directory / "chat_template.json", chat_template=template.replace(*change))
    check_rendered(directory)


@pytest.mark.parametrize(
    ("added", "named"),
    [("{{ strftime_now('%Y') }}", "strftime_now"), ("{{ [1, 2] | random }}", "random"),
     ("{{ lipsum() }}", "lipsum"), ("{{ raise_exception('not you') }}", "not you"),
     ("{{ 1 / 0 }}", "ZeroDivision"), ("{% nonsense %}", "nonsense"),
     ("{{ ''.__class__.__mro__ }}", "fails"), ("{% include 'x' %}", "loader")],
)  # fmt: skip
def test_templates_that_cannot_be_followed_are_refused(
    mini: Make, tmp_path: Path, added: str, named: str
) -> None:
    directory = copy(mini(), tmp_path / "c")
    template = json.loads((directory / "chat_template.json").read_text())["chat_template"]
    edit(directory / "chat_template.json", chat_template=added + template)
    with pytest.raises(CheckpointError, match=named):
        Preparer(find_checkpoint(directory), LoadOptions())


@pytest.mark.parametrize(
    "expression",
    ["content['text'] | trim", "content['text'].strip()", "content['text'] | upper",
     "content['text'] | replace('&', '+')", "content['text'] | e", "content['text'][:3]",
     "content['text'] ~ content['text']", "'fixed'"],
)  # fmt: skip
def test_a_template_that_changes_text_is_refused(
    mini: Make, tmp_path: Path, expression: str
) -> None:
    directory = copy(mini(), tmp_path / "c")
    template = json.loads((directory / "chat_template.json").read_text())["chat_template"]
    changed = template.replace(TEXT, "{{ " + expression + " }}")
    edit(directory / "chat_template.json", chat_template=changed)
    with pytest.raises(CheckpointError, match=r"chat template (changes|drops)"):
        Preparer(find_checkpoint(directory), LoadOptions())


def marked(directory: Path, mark: str) -> str:
    """The template with a mark in front, to be told from others."""
    template = json.loads((directory / "chat_template.json").read_text())["chat_template"]
    return mark + template


@pytest.mark.parametrize(
    ("files", "wins"),
    [
        (("chat_template.json",), "json"),
        (("chat_template.json", "chat_template.jinja"), "json"),
        (("chat_template.jinja",), "jinja"),
        (("chat_template.jinja", "tokenizer"), "jinja"),
        (("more/default.jinja",), "more"),
        (("more/default.jinja", "chat_template.jinja", "more/other.jinja"), "jinja"),
        (("processor", "chat_template.json"), "processor"),
        (("processor", "chat_template.jinja"), "processor"),
        (("processor",), "processor"),
    ],
)
def test_the_template_of_the_file_that_transformers_takes_wins(
    mini: Make, tmp_path: Path, files: tuple[str, ...], wins: str
) -> None:
    directory = copy(mini(), tmp_path / "c")
    texts = {n: marked(directory, n) for n in ("json", "jinja", "more", "tokenizer", "processor")}
    (directory / "chat_template.json").unlink()
    edit(directory / "tokenizer_config.json", "chat_template")
    for file in files:
        if file == "chat_template.json":
            edit(directory / file, chat_template=texts["json"])
        elif file == "chat_template.jinja":
            (directory / file).write_text(texts["jinja"])
        elif file.startswith("more/"):
            place = directory / file.replace("more", "additional_chat_templates")
            place.parent.mkdir(exist_ok=True)
            place.write_text(texts["more"])
        elif file == "tokenizer":
            edit(directory / "tokenizer_config.json", chat_template=texts["tokenizer"])
        else:
            edit(directory / PROC, processor_class="Qwen2VLProcessor", chat_template=texts[file])
    contradict = len({f for f in files if "other" not in f and f != "tokenizer"}) > 1
    if contradict and "more/default.jinja" not in files:
        with pytest.warns(RuntimeWarning, match="is passed over"):
            assert rendered(directory).startswith(wins)
    else:
        assert rendered(directory).startswith(wins)
    if FIVE or files[0] != "processor" or len(files) == 1:  # 4.57 takes the processor's last
        check_rendered(directory)


def test_templates_that_transformers_does_not_choose_among_are_refused(
    mini: Make, tmp_path: Path
) -> None:
    directory = copy(mini(), tmp_path / "c")
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "x.jinja").write_text("x")
    with pytest.raises(ValueError, match="conflicting"):
        theirs(directory)
    with pytest.raises(CheckpointError, match="additional_chat_templates"):
        find_checkpoint(directory)
    (directory / "chat_template.json").unlink()
    with pytest.raises(CheckpointError, match=r"default\.jinja"):
        find_checkpoint(directory)


def test_the_tokenizers_template_serves_where_there_is_no_other(mini: Make, tmp_path: Path) -> None:
    directory = copy(mini(), tmp_path / "c")
    template = marked(directory, "tokenizer")
    (directory / "chat_template.json").unlink()
    for given in (template, [{"name": "x", "template": "x"},
                             {"name": "default", "template": template}]):  # fmt: skip
        edit(directory / "tokenizer_config.json", chat_template=given)
        wanted = transformers.AutoTokenizer.from_pretrained(directory).apply_chat_template(
            [{"role": "user", "content": CONTENT}], tokenize=False, add_generation_prompt=True
        )
        assert rendered(directory) == wanted
