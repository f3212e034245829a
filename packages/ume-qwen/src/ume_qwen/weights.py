"""A checkpoint's tensors: where they are, what they are called, and what they hold.

safetensors files are mapped, not read: their header says where every tensor stands, so that a
tensor can be hashed or compared without a copy, also in bfloat16, which numpy does not have. (The
safetensors package either copies every tensor or needs a framework that has its type.)
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ume_core.errors import CheckpointError
from ume_qwen.files import check_content, read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LM_HEAD, EMBED = "lm_head.weight", "model.language_model.embed_tokens.weight"
# safetensors' own bound on a header, `MAX_HEADER_SIZE`.
_MOST_HEADER = 100_000_000
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Rotary frequencies that old versions saved: computed from the configuration instead.
_BUFFER = re.compile(r"rotary(_pos)?_emb\.(original_)?inv_freq$")
_BLOCK = 1 << 24


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file.

    Attributes:
        name: as transformers' model calls it (see `canonical_name`).
        key: as the file calls it.
        file: where it stands.
        dtype: safetensors' name of its type.
        shape: its sizes.
        start: its first byte in the file.
        stop: the byte behind its last.
    """

    name: str
    key: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def canonical_name(key: str) -> str:
    """The name of a parameter in transformers' model, from 4.52 on.

    The published files say `visual.…` and `model.layers.…`; later ones may nest both below
    `model.`; a model saved without its LM head (sentence-transformers does) has neither prefix.
    The first two rules are transformers' own (`Qwen2VLForConditionalGeneration`,
    `_checkpoint_conversion_mapping` in 4.57, `conversion_mapping.py` in 5.x).
    """
    if key.startswith(("visual.", "language_model.")):
        return f"model.{key}"
    return re.sub(r"^model(?!\.(language_model|visual))", "model.language_model", key)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a directory, as transformers chooses them: one, or an index's.

    Raises:
        CheckpointError: there are none, or the index names others or missing ones.
    """
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    index = directory / INDEX
    if not index.is_file():
        raise _no_weights(directory)
    weight_map: object = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} has no weight_map", fix="download it again")
    names = {str(n) for n in cast("dict[str, Any]", weight_map).values()}
    for name in sorted(names):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names {name!r}", fix="weights must be .safetensors files beside it"
            )
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory} lacks {name}", fix="download it again")
    return sorted(directory / name for name in names)


def has_weights(directory: Path) -> bool:
    """Whether a directory has safetensors weights of its own."""
    return (directory / WEIGHTS).is_file() or (directory / INDEX).is_file()


def foreign_weights(directory: Path) -> CheckpointError | None:
    """What to say of weights in a directory that are in no safetensors file, if it has some."""
    if quantised := sorted(directory.glob("*.gguf")):
        return CheckpointError(
            f"{directory} holds GGUF weights ({quantised[0].name}), which are quantised for "
            "llama.cpp",
            fix="use the checkpoint they were made from, in safetensors",
        )
    if pickles := [path for pattern in _PICKLES for path in sorted(directory.glob(pattern))]:
        return CheckpointError(
            f"{directory} has no .safetensors weights; its {pickles[0].name} is a pickle, which "
            "can run code and is never loaded",
            fix="convert it where you trust it: load it with transformers, save_pretrained()",
        )
    return None


def _no_weights(directory: Path) -> CheckpointError:
    others = sorted(directory.glob("*.safetensors"))
    if others and others[0].name != "adapter_model.safetensors":
        return CheckpointError(
            f"{directory} has {others[0].name}, but no {WEIGHTS}",
            fix=f"rename it to {WEIGHTS} if it holds the whole model",
        )
    return foreign_weights(directory) or CheckpointError(
        f"{directory} has no .safetensors weights",
        fix="save it with save_pretrained(); pickled .bin files are never loaded",
    )


def read_tensors(
    files: list[Path], named: Callable[[str], str] = canonical_name
) -> dict[str, Tensor]:
    """Every tensor of the files by the model's name for it; rotary buffers are left out.

    Args:
        named: the model's name for a file's key.

    Raises:
        CheckpointError: a file is cut, is none of safetensors, or two tensors have one name.
    """
    found: dict[str, Tensor] = {}
    for file in files:
        for tensor in _read_header(file, named):
            if _BUFFER.search(tensor.name):
                continue
            if tensor.name in found:
                raise CheckpointError(
                    f"{file} has {tensor.key} a second time (first in {found[tensor.name].file})",
                    fix="save the checkpoint again",
                )
            found[tensor.name] = tensor
    return found


def _read_header(file: Path, named: Callable[[str], str]) -> list[Tensor]:
    check_content(file)
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > min(_MOST_HEADER, size - 8):
            raise CheckpointError(
                f"{file} is cut, or no safetensors file (its header would have {length:,} bytes)",
                fix="download it again",
            )
        text = handle.read(length)
    try:
        header = cast("dict[str, Any]", json.loads(text))
        tensors = [
            _tensor(file, named(key), key, entry, 8 + length)
            for key, entry in header.items()
            if key != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} has a damaged header: {error!r}", fix="download it again"
        ) from error
    end = max((t.stop for t in tensors), default=8 + length)
    if end != size:
        raise CheckpointError(
            f"{file} is cut: it has {size:,} bytes, and its header says {end:,}",
            fix="download it again",
        )
    return tensors


def _tensor(file: Path, name: str, key: str, entry: Mapping[str, Any], base: int) -> Tensor:
    dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
    start, stop = (int(n) for n in entry["data_offsets"])
    if dtype not in _FLOATS:
        raise CheckpointError(
            f"{file}: {key} is of type {dtype}, as in quantised checkpoints",
            fix="use the unquantised checkpoint it was made from",
        )
    if min(start, *shape, 0) < 0 or stop - start != math.prod(shape) * _FLOATS[dtype]:
        raise ValueError(f"{key} of shape {list(shape)} does not fill bytes {start} to {stop}")
    return Tensor(name, key, file, dtype, shape, base + start, base + stop)


def same_content(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal to the bit."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with _mapped(one.file) as left, _mapped(other.file) as right:
        for offset in range(0, one.stop - one.start, _BLOCK):
            end = min(offset + _BLOCK, one.stop - one.start)
            mine = left[one.start + offset : one.start + end]
            if mine != right[other.start + offset : other.start + end]:
                return False
    return True


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, 16 hex digits, over names, types, shapes and contents, in the names' order.

    How they are spread over files, in which order and under which spelling of their names, changes
    nothing: a checkpoint that is saved again or sharded keeps its digest.
    """
    workers = min(4, os.cpu_count() or 1)
    largest_first = sorted(tensors.values(), key=lambda t: t.start - t.stop)
    with ThreadPoolExecutor(workers) as pool:
        contents = dict(zip(largest_first, pool.map(_content_digest, largest_first), strict=True))
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, tensor.dtype, tensor.shape]).encode())
        digest.update(contents[tensor])
    return digest.hexdigest()[:16]


def _content_digest(tensor: Tensor) -> bytes:
    digest = hashlib.sha256()
    with (
        _mapped(tensor.file) as content,
        memoryview(content) as view,
        view[tensor.start : tensor.stop] as own,
    ):
        digest.update(own)  # hashlib lets other threads run meanwhile
    return digest.digest()


@contextmanager
def _mapped(file: Path) -> Generator[mmap.mmap]:
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as map_:
        yield map_
