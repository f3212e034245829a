"""A directory that plain sentence-transformers (5.7 and 6.x) loads without a flag or a plugin.

The checkpoint stays as published (LM head, chat template: plain transformers still generates with
it); beside it stand sentence-transformers' own files and a second chat template that ends at
`<disc_emb>`, so that last-token pooling takes the published disc state. sentence-transformers'
own `save` is no substitute: it writes the model without its LM head.
"""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

from ume_core.directories import new_directory
from ume_core.errors import InvalidOption
from ume_core.qwen.checkpoint import find_checkpoint

_TEMPLATE = "disc_emb"
_MODULES = [
    ("0", "", "base.modules.transformer.Transformer"),
    ("1", "1_Pooling", "sentence_transformer.modules.pooling.Pooling"),
    ("2", "2_Normalize", "sentence_transformer.modules.normalize.Normalize"),
]
_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}


def save(model: str | Path, directory: Path, options: dict[str, Any]) -> Path:
    """Write the directory.

    Args:
        model: a checkpoint directory or hub id. directory: must not exist, or be empty.
        options: none are known; text-only items are embedded `plain`, since a chat template
            cannot add the blank picture.

    Raises:
        InvalidOption: the directory is taken, or an option is given.
        CheckpointError: the model is no UME-R1 checkpoint.
    """
    if options:
        raise InvalidOption(f"unknown option {next(iter(options))!r}", fix="pass none")
    with new_directory(directory) as part:
        checkpoint = find_checkpoint(model)
        for source in (*checkpoint.side_files(), *checkpoint.weight_files()):
            shutil.copyfile(source, part / source.name)
        _write_settings(part, checkpoint.hidden_size, checkpoint.chat_template)
    return directory


def _write_settings(part: Path, dimensions: int, chat_template: str) -> None:
    # transformers reads named templates only from this layout.
    (part / "chat_template.jinja").write_text(chat_template, "utf-8")
    (part / "chat_template.json").unlink(missing_ok=True)
    extra = part / "additional_chat_templates"
    extra.mkdir(exist_ok=True)
    template = files("ume_sentence_transformers").joinpath("disc_emb.jinja").read_text("utf-8")
    template = template.rstrip("\n").replace("__CHAT_TEMPLATE__\n", chat_template)
    (extra / f"{_TEMPLATE}.jinja").write_text(template, "utf-8")
    _write(
        part / "modules.json",
        [
            {"idx": int(i), "name": i, "path": path, "type": f"sentence_transformers.{kind}"}
            for i, path, kind in _MODULES
        ],
    )
    kinds = dict.fromkeys(("text", "image", "video"), _FORWARD)
    _write(
        part / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            "modality_config": kinds | {"message": {**_FORWARD, "format": "structured"}},
            "module_output_name": "token_embeddings",
            "processing_kwargs": {"chat_template": {"chat_template": _TEMPLATE}},
            "unpad_inputs": False,
        },
    )
    _write(
        part / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "similarity_fn_name": "cosine",
            "prompts": {},
            "default_prompt_name": None,
            "ume": {"mode": "disc", "conventions": "readme"},
        },
    )
    for _, path, _ in _MODULES[1:]:
        (part / path).mkdir(exist_ok=True)
    _write(
        part / "1_Pooling" / "config.json",
        {"embedding_dimension": dimensions, "pooling_mode": "lasttoken", "include_prompt": True},
    )
    _write(part / "2_Normalize" / "config.json", {})


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2), "utf-8")
