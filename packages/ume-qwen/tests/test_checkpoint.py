"""What stands in place of a checkpoint's files is named, and a digest follows their meaning."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ume_core.errors import CheckpointError
from ume_qwen.checkpoint import Checkpoint, find_checkpoint
from ume_qwen.digests import files_digest
from ume_qwen.locate import locate
from ume_qwen.weights import canonical_name, read_tensors, same_content, tensors_digest

NANO = Path(__file__).parents[2] / "ume-nano" / "src" / "ume_nano" / "model"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4' * 64}\nsize 4418058536\n"
HTML = "<!DOCTYPE html>\n<html><head><title>Log in</title></head></html>"
JSON_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "preprocessor_config.json", "chat_template.json",
)  # fmt: skip


def write_safetensors(path: Path, tensors: dict[str, Any], **metadata: str) -> Path:
    """A file by the format's description: 8 bytes of length, a JSON header, the contents."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    content = b""
    for name, values in tensors.items():
        data = np.ascontiguousarray(values)
        dtype = {"float32": "F32", "float16": "F16", "uint8": "U8"}[data.dtype.name]
        end = len(content) + data.nbytes
        header[name] = {
            "dtype": dtype,
            "shape": list(data.shape),
            "data_offsets": [len(content), end],
        }
        content += data.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def tensors(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=(4, 3)).astype(np.float32)
        for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight",
                     "visual.merger.ln_q.weight")
    }  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """ume-nano's files with a few small tensors."""
    target = tmp_path / "model"
    target.mkdir()
    for path in NANO.iterdir():
        if path.suffix in (".json", ".txt"):
            shutil.copyfile(path, target / path.name)
    edit(target / "config.json", tie_word_embeddings=False)
    write_safetensors(target / "model.safetensors", tensors())
    return target


def edit(path: Path, **new: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | new), "utf-8")


@pytest.mark.parametrize("name", [*JSON_FILES, "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "named"),
    [(POINTER, "git-lfs pointer.*Fix: run `git lfs pull`"), ("", r"is empty \(0 bytes\)"),
     (HTML, "an HTML page"), ("  \n<html>", "an HTML page")],
    ids=["lfs", "empty", "html", "html with spaces"],
)  # fmt: skip
def test_what_stands_in_place_of_a_file_is_named(
    directory: Path, name: str, content: str, named: str
) -> None:
    (directory / name).write_text(content)
    with pytest.raises(CheckpointError, match=rf"{name}.*{named}"):
        find_checkpoint(directory).digest()


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("content", ["{", "[]", "5", "\xff\xfe{}", "[" * 100_000])
def test_a_damaged_json_file_is_named(directory: Path, name: str, content: str) -> None:
    (directory / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=name):
        find_checkpoint(directory).digest()


def test_a_json_file_of_absurd_size_is_not_read(directory: Path) -> None:
    with (directory / "tokenizer_config.json").open("r+b") as handle:
        handle.truncate(1 << 33)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json has 8,589,934,592 bytes"):
        find_checkpoint(directory)


def header(text: bytes, content: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + content


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\x08\x00", "is cut"),
        (header(b"{}", length=1 << 40), "is cut"),
        (header(b"{nonsense}"), "damaged header"),
        (header(b"[" * 100_000), "damaged header"),
        (header(b'{"a": 5}'), "damaged header"),
        (header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', b"1234"),
         "does not fill"),
        (header(b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', b"1234"),
         "does not fill"),
        (header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', b"1234"),
         "is cut"),
        (header(b'{"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}', b"1234"),
         "type F8_E4M3, as in quantised"),
        (b"PK\x03\x04" + b"x" * 50, "a pickle named .safetensors"),
        (b"\x80\x02}q\x00" + b"x" * 50, "a pickle named .safetensors"),
    ],
)  # fmt: skip
def test_damaged_weights_are_named(directory: Path, content: bytes, named: str) -> None:
    (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors.*{named}"):
        find_checkpoint(directory).tensors()


@pytest.mark.parametrize(
    ("name", "named"),
    [("pytorch_model.bin", "pytorch_model.bin is a pickle"), ("model.pth", "model.pth is a pickle"),
     ("model-q4_k_m.gguf", "GGUF weights .model-q4_k_m.gguf"),
     ("model.fp16.safetensors", "has model.fp16.safetensors, but no model.safetensors"),
     ("notes.txt", "has no .safetensors weights")],
)  # fmt: skip
def test_weights_of_another_kind_are_named(directory: Path, name: str, named: str) -> None:
    (directory / "model.safetensors").rename(directory / name)
    with pytest.raises(CheckpointError, match=named):
        find_checkpoint(directory)
    if name.endswith((".bin", ".gguf")):  # such repositories often have nothing else
        (directory / "config.json").unlink()
        with pytest.raises(CheckpointError, match=named):
            find_checkpoint(directory)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors"])
@pytest.mark.parametrize("place", [(), ("text_config",)])
def test_a_quantised_checkpoint_is_refused_by_its_method(
    directory: Path, method: str, place: tuple[str, ...]
) -> None:
    config = json.loads((directory / "config.json").read_text())
    inner = config
    for key in place:
        inner[key] = {k: v for k, v in config.items() if k not in ("vision_config", "model_type")}
        inner = inner[key]
    inner["quantization_config"] = {"quant_method": method, "bits": 4}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"quantised .*{method}.*unquantised"):
        find_checkpoint(directory)


@pytest.mark.parametrize(
    ("new", "named"),
    [
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"head_dim": 64}, "head_dim is 64"),
        ({"rope_scaling": None}, "mrope_section"),
        ({"rope_scaling": {"type": "dynamic", "mrope_section": [6, 9, 9]}}, "dynamic"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [6, 9]}}, "mrope_section"),
        ({"rope_scaling": {"type": "yarn", "rope_type": "linear", "mrope_section": [6, 9, 9]}},
         "rotary"),
        ({"rope_theta": 5.0}, "rope_theta is 5.0, and 10000.0"),
        ({"hidden_size": "192"}, "hidden_size is '192'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vision_config": 5}, "vision_config is not a JSON object"),
        ({"vision_config": {"patch_size": 16}}, "patch_size is 16"),
        ({"vision_config": {"in_channels": 1}}, "in_channels is 1"),
        ({"vision_config": {"rope_parameters": {"rope_theta": 5.0}}}, "rope_parameters"),
        ({"model_type": "qwen3_vl"}, "qwen3_vl"),
        ({"tokenizer_class": "LlamaTokenizer"}, "tokenizer_class is 'LlamaTokenizer'"),
    ],
    ids=str,
)  # fmt: skip
def test_configurations_that_are_not_followed_are_refused(
    directory: Path, new: dict[str, Any], named: str
) -> None:
    edit(directory / "config.json", **new)
    with pytest.raises(CheckpointError, match=named):
        find_checkpoint(directory)


def test_a_file_or_a_name_is_no_directory(directory: Path) -> None:
    for wrong, named in (
        (directory / "model.safetensors", "is a file, not a checkpoint directory"),
        (directory / "nothing", "no checkpoint directory"),
        ("~/nothing", "no checkpoint directory"),
    ):
        with pytest.raises(CheckpointError, match=named):
            locate(wrong)


def test_links_out_of_the_checkpoint_are_not_copied(directory: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"eos_token": "<|im_end|>"}')
    (directory / "special_tokens_map.json").symlink_to(secret)
    with pytest.raises(CheckpointError, match="links to"):
        find_checkpoint(directory).side_files()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("visual.blocks.0.norm1.weight", "model.visual.blocks.0.norm1.weight"),
        ("model.visual.merger.ln_q.weight", "model.visual.merger.ln_q.weight"),
        ("model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        ("model.language_model.norm.weight", "model.language_model.norm.weight"),
        ("language_model.norm.weight", "model.language_model.norm.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_names_of_every_line_are_one(key: str, name: str) -> None:
    assert canonical_name(key) == name


def digest(directory: Path) -> str:
    return find_checkpoint(directory).digest()


def test_a_digest_does_not_depend_on_how_files_are_written(directory: Path) -> None:
    first = digest(directory)
    values = tensors()
    weights = directory / "model.safetensors"
    write_safetensors(weights, dict(reversed(values.items())), format="pt", note="again")
    assert digest(directory) == first
    write_safetensors(weights, {canonical_name(n): v for n, v in values.items()})
    assert digest(directory) == first
    weights.unlink()
    names = list(values)
    for number, part in enumerate((names[:1], names[1:])):
        write_safetensors(directory / f"part{number}.safetensors", {n: values[n] for n in part})
    index = {n: f"part{int(i > 0)}.safetensors" for i, n in enumerate(names)}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert digest(directory) == first
    for name in JSON_FILES:
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()), indent=3, sort_keys=True))
    edit(directory / "config.json", transformers_version="9.9", dtype="float16", use_cache=False)
    assert digest(directory) == first


def test_a_digest_depends_on_every_weight(directory: Path) -> None:
    found = {digest(directory)}
    for name, values in tensors().items():
        for other in (values + np.float32(1e-6), values.astype(np.float16), values.reshape(3, 4)):
            write_safetensors(directory / "model.safetensors", tensors() | {name: other})
            found.add(digest(directory))
    write_safetensors(
        directory / "model.safetensors", tensors() | {"model.more": tensors()["lm_head.weight"]}
    )
    found.add(digest(directory))
    assert len(found) == 1 + 3 * len(tensors()) + 1


def test_swapped_weights_are_another_digest(tmp_path: Path) -> None:
    values = tensors()
    names = list(values)
    swapped = dict(zip(names, [values[n] for n in reversed(names)], strict=True))
    one = write_safetensors(tmp_path / "one.safetensors", values)
    two = write_safetensors(tmp_path / "two.safetensors", swapped)
    assert tensors_digest(read_tensors([one])) != tensors_digest(read_tensors([two]))


def test_tied_embeddings_are_compared_to_the_bit(tmp_path: Path) -> None:
    values = np.zeros((3, 5), dtype=np.float32)
    near = values.copy()
    near[2, 4] = np.float32(1e-40)
    path = write_safetensors(
        tmp_path / "w.safetensors", {"a": values, "b": values, "c": near, "d": values.T}
    )
    found = read_tensors([path])
    assert same_content(found["a"], found["b"])
    assert not same_content(found["a"], found["c"])
    assert not same_content(found["a"], found["d"])


def test_one_tensor_in_two_files_is_refused(directory: Path) -> None:
    weights = directory / "model.safetensors"
    write_safetensors(
        weights, tensors() | {"model.visual.merger.ln_q.weight": np.zeros(2, np.float32)}
    )
    with pytest.raises(CheckpointError, match="a second time"):
        find_checkpoint(directory).tensors()


def test_digests_need_no_home(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may be in no passwd file and have no HOME."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    first = digest(directory)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert digest(directory) == first


def test_a_changed_file_is_hashed_again_and_the_memory_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "file"
    found: set[str] = set()
    for number in range(600):
        file.write_text(f"{number}")
        os.utime(file, ns=(number, number))
        found.add(files_digest([file]))
        assert files_digest([file]) in found
    assert len(found) == 600
    known = json.loads((tmp_path / "cache" / "ume" / "digests.json").read_text())
    assert len(known) == 512


def test_side_files_are_those_of_the_layout(directory: Path) -> None:
    (directory / "training_args.json").write_text("{}")
    found: Checkpoint = find_checkpoint(directory)
    assert {path.name for path in found.side_files()} == {
        *JSON_FILES, "vocab.json", "merges.txt", "ume_conventions.json",
    }  # fmt: skip
    assert [path.name for path in found.weight_files()] == ["model.safetensors"]
    more = directory / "additional_chat_templates"
    more.mkdir()
    (directory / "chat_template.json").rename(more / "unused.json")
    (more / "default.jinja").write_text("x")
    with pytest.raises(CheckpointError, match=r"copy additional_chat_templates/default\.jinja"):
        find_checkpoint(directory).side_files()
