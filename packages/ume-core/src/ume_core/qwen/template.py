"""The chat template: which file's counts, and its rendering as transformers does it.

The order is that of transformers 5.x' processors: `chat_template` in processor_config.json, then
chat_template.json, then chat_template.jinja or additional_chat_templates/default.jinja. (4.57 takes
processor_config.json last.) Where there is none of these a processor of transformers cannot render
at all; here the tokenizer's template serves, tokenizer_config.json's `chat_template`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ume_core.errors import CheckpointError
from ume_core.qwen.files import optional_json, read_json, read_text
from ume_core.qwen.processor import PROCESSOR

JINJA, LEGACY, MORE = "chat_template.jinja", "chat_template.json", "additional_chat_templates"
TEMPLATE_FILES = (LEGACY, JINJA)


def read_template(directory: Path, tokenizer_config: dict[str, Any]) -> str:
    """The source of the template that lays out a turn.

    Args:
        tokenizer_config: tokenizer_config.json.

    Raises:
        CheckpointError: there is none, or the files contradict each other as transformers does not
            allow.
    """
    found: list[tuple[str, str]] = []
    for name in (PROCESSOR, LEGACY):
        template: object = optional_json(directory / name).get("chat_template")
        if template is not None:
            found.append((name, _text(directory / name, template)))
    named = {path.stem: path for path in sorted((directory / MORE).glob("*.jinja"))}
    if named and (directory / LEGACY).is_file():
        raise CheckpointError(
            f"{directory} has both {LEGACY} and {MORE}/, which transformers does not load",
            fix=f"replace {LEGACY} by {JINJA}, its text unquoted",
        )
    for path in (directory / JINJA, named.get("default")):
        if path is not None and path.is_file():
            found.append((path.name, read_text(path)))
            break
    if not found and named:
        raise CheckpointError(
            f"{directory}/{MORE} has no default.jinja, and there is no {JINJA}",
            fix=f"copy the one to use to {JINJA}",
        )
    if not found:
        return _tokenizers(directory, tokenizer_config)
    for name, template in found[1:]:
        if template != found[0][1]:
            warnings.warn(
                f"{name} is passed over: {found[0][0]} has another chat template, and wins as in "
                "transformers",
                RuntimeWarning,
                stacklevel=2,
            )
    return found[0][1]


def _tokenizers(directory: Path, tokenizer_config: dict[str, Any]) -> str:
    template: object = tokenizer_config.get("chat_template")
    if isinstance(template, list):  # [{"name": …, "template": …}, …]
        entries = [cast("dict[str, Any]", e) for e in cast("list[object]", template)
                   if isinstance(e, dict)]  # fmt: skip
        template = {str(e.get("name")): e.get("template") for e in entries}
    if isinstance(template, dict):
        template = cast("dict[str, Any]", template).get("default")
    if template is None:
        raise CheckpointError(
            f"{directory} has no chat template", fix=f"copy {LEGACY} to it from the checkpoint"
        )
    return _text(directory / "tokenizer_config.json", template)


def _text(path: Path, template: object) -> str:
    if not isinstance(template, str):
        raise CheckpointError(
            f"{path}: chat_template is not a string", fix="take the file from the checkpoint"
        )
    return template


def has_template(directory: Path) -> bool:
    """Whether a directory has a chat template of its own, apart from its tokenizer's."""
    if any((directory / name).is_file() for name in TEMPLATE_FILES) or (directory / MORE).is_dir():
        return True
    path = directory / PROCESSOR
    return path.is_file() and read_json(path).get("chat_template") is not None


def compile_template(source: str) -> Template:
    """Compile as transformers does, sandboxed: a checkpoint is foreign code.

    `generation` blocks (TRL marks answers with them), `break` and `continue`, `tojson` without HTML
    escapes and `raise_exception` are as in transformers' `utils/chat_template_utils.py`. What would
    give one item another vector tomorrow is refused where it is used: the date (`strftime_now`) and
    random choices.

    Raises:
        CheckpointError: it is no template.
    """
    environment: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
    )
    environment.filters["tojson"] = _tojson
    environment.filters["random"] = _refuse("the filter random")
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _refuse("strftime_now")
    environment.globals["lipsum"] = _refuse("lipsum")
    try:
        return environment.from_string(source)
    except (TemplateError, RecursionError) as error:
        raise CheckpointError(
            f"the chat template is broken: {error}", fix="take it from the published checkpoint"
        ) from error


def render_template(template: Template, content: list[dict[str, str]], **tokens: str) -> str:
    """One user turn and the start of the answer.

    Args:
        content: the turn's elements, as in a message of transformers.
        tokens: the tokenizer's named special tokens (`bos_token`, …), which a template may use.

    Raises:
        CheckpointError: the template refuses, or fails.
    """
    messages = [{"role": "user", "content": content}]
    try:
        return template.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True, **tokens
        )
    except CheckpointError:
        raise
    except Exception as error:  # a template can raise what it likes: 1 / 0, a sandbox's refusal
        raise CheckpointError(
            f"the chat template fails ({type(error).__name__}: {error})",
            fix="take it from the published checkpoint",
        ) from error


def used_tokens(source: str, tokens: Mapping[str, str]) -> dict[str, str]:
    """Those of the special tokens that a template names."""
    return {name: token for name, token in tokens.items() if name in source}


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: renders what is in it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block, as in transformers: variables set inside do not reach outside.
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


def _refuse(what: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise CheckpointError(
            f"the chat template uses {what}, so that an item's vector would differ from one time "
            "to the next",
            fix="write a fixed text in its place, or use Qwen2-VL's template",
        )

    return refuse


def _raise(message: str) -> NoReturn:
    raise CheckpointError(f"the chat template refused: {message}", fix="use Qwen2-VL's template")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
