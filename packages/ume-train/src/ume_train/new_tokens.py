"""Giving a Qwen2-VL the two tokens of UME-R1, as upstream does.

`<gen_emb>` starts as a copy of `<|object_ref_end|>`'s row, `<disc_emb>` of `<|object_ref_start|>`'s
(Qwen2.5-VL: `</tool_call>` and `<tool_call>`), in the input and, where separate, output embeddings.
Source: `qwenvl/train/train_qwen.py` and `open_r1/trainer/grpo_trainer.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ume_core.errors import CheckpointError
from ume_core.prompts import DISC_TOKEN, GEN_TOKEN
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.files import read_json
from ume_qwen.weights import weight_files

_ROWS = {
    "qwen2_vl": {GEN_TOKEN: "<|object_ref_end|>", DISC_TOKEN: "<|object_ref_start|>"},
    "qwen2_5_vl": {GEN_TOKEN: "</tool_call>", DISC_TOKEN: "<tool_call>"},
}
_TABLES = ("embed_tokens.weight", "lm_head.weight")


def has_tokens(directory: Path) -> bool:
    """Whether a checkpoint's tokenizer has both tokens; True where that cannot be told here."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        return True
    names = {t.get("content") for t in read_json(path).get("added_tokens", [])}
    return {GEN_TOKEN, DISC_TOKEN} <= names


def with_tokens(source: Path, target: Path) -> Path:
    """Write a copy of a checkpoint with the tokens into `target`; returns it. Safe to repeat.

    Raises:
        CheckpointError: the checkpoint lacks the tokens whose rows are copied, or has no room.
    """
    if (target / "done.json").is_file():
        return target
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    config = read_json(source / "config.json")
    rows = _ROWS.get(str(config.get("model_type")))
    if rows is None:
        raise CheckpointError(
            f"{source} is a {config.get('model_type')!r} model", fix="start from Qwen2-VL"
        )
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja", ".txt") and "index" not in path.name:
            shutil.copyfile(path, target / path.name)
    tokenizer = read_json(source / "tokenizer.json")
    added: list[dict[str, Any]] = tokenizer["added_tokens"]
    ids = {str(t["content"]): int(t["id"]) for t in added}
    following = max(ids.values()) + 1
    copies: dict[int, int] = {}
    for number, (token, like) in enumerate(rows.items(), following):
        if like not in ids:
            raise CheckpointError(f"{source} has no {like} token", fix="start from Qwen2-VL")
        copies[number] = ids[like]
        added.append({
            "id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": False,
        })  # fmt: skip
    _write(target / "tokenizer.json", tokenizer)
    settings = target / "tokenizer_config.json"
    if settings.is_file():
        known = read_json(settings)
        if isinstance(known.get("added_tokens_decoder"), dict):
            known["added_tokens_decoder"] |= {
                str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added[-len(rows) :]
            }
            _write(settings, known)
    for name in ("added_tokens.json",):
        path = target / name
        if path.is_file():
            _write(path, read_json(path) | dict(zip(rows, copies, strict=True)))
    _weights(source, target, copies)
    find_checkpoint(target)
    _write(target / "done.json", {"from": str(source)})
    return target


def _weights(source: Path, target: Path, copies: dict[int, int]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for file in weight_files(source):
        tensors |= load_file(file)
    for name, table in tensors.items():
        if not name.endswith(_TABLES):
            continue
        if max(copies) >= len(table):
            raise CheckpointError(
                f"{source}: {name} has {len(table):,} rows, and the new tokens need "
                f"{max(copies) + 1:,}",
                fix="start from a published Qwen2-VL, which has room",
            )
        for row, like in copies.items():
            table[row] = table[like]
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
