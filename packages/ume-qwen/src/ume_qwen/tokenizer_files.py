"""The tokenizer's files: what must agree, and which settings count.

transformers 4.57 takes the whole pipeline from tokenizer.json; 5.x takes vocabulary and merges from
it, builds Qwen2's pipeline around them, and takes added tokens from tokenizer_config.json where
that lists them. A tokenizer that the two would read differently is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ume_core.errors import CheckpointError
from ume_qwen.files import optional_json
from ume_qwen.rules import OBEYED, Rule, absent, check_keys, each, ignored, only

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
# Files that transformers reads beside these two, or that older versions wrote.
LEGACY_FILES = ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
_NAMED = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
# Named tokens of `Qwen2Tokenizer` (both lines) where tokenizer_config.json has no such key.
_DEFAULTS: dict[str, Any] = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
# Qwen2's own (`PRETOKENIZE_REGEX` in transformers 5.x `models/qwen2/tokenization_qwen2.py`).
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLIT = {"type": "Split", "pattern": {"Regex": _PATTERN}, "behavior": "Isolated", "invert": False}

TOKENIZER_RULES: dict[str, Rule] = each(
    "added_tokens normalizer pre_tokenizer post_processor decoder model", OBEYED
) | each("version truncation padding", ignored("text is never cut or padded by the tokenizer"))
MODEL_RULES: dict[str, Rule] = each("vocab merges", OBEYED) | {
    "type": only("BPE", why="Qwen2's model"),
    "dropout": only(0.0, None, why="one text must have one tokenization"),
    "unk_token": absent("bytes are never unknown"),
    "continuing_subword_prefix": only("", None, why="Qwen2's model"),
    "end_of_word_suffix": only("", None, why="Qwen2's model"),
    "fuse_unk": only(False, why="Qwen2's model"),
    "byte_fallback": only(False, why="Qwen2's model"),
    "ignore_merges": only(False, why="Qwen2's model"),
}
SETTINGS_RULES: dict[str, Rule] = (
    each(" ".join(_NAMED), OBEYED)
    | each("added_tokens_decoder additional_special_tokens extra_special_tokens chat_template "
           "model_specific_special_tokens", OBEYED)
    | {
        "tokenizer_class": only(*CLASSES, None, why="the architecture's tokenizer"),
        "add_prefix_space": only(False, None, why="Qwen2's pipeline"),
        "split_special_tokens": only(False, None, why="special tokens are single tokens"),
        "truncation": only(False, "do_not_truncate", None, why="text is never cut"),
        "from_slow": only(False, None, why="tokenizer.json is what is read"),
        "fix_mistral_regex": only(False, None, why="Qwen2's pipeline"),
        "image_token": only("<|image_pad|>", why="the template's placeholder"),
        "video_token": only("<|video_pad|>", why="the template's placeholder"),
        "init_inputs": only([], None, why="tokenizer.json is what is read"),
    }
    | each("fast_tokenizer_files tokenizer_file vocab_file merges_file vocab merges gguf_file "
           "tokenizer_object", absent("tokenizer.json is what is read"))
    | each("add_bos_token add_eos_token",
           ignored("transformers drops them where there is a tokenizer.json"))
    | each("model_max_length max_length stride truncation_side truncation_strategy",
           ignored("text is never cut; the limits are the caller's"))
    | each("padding padding_side pad_to_multiple_of pad_token_type_id",
           ignored("nothing is padded"))
    | each("clean_up_tokenization_spaces errors", ignored("how answers are shown, not computed"))
    | each("processor_class name_or_path special_tokens_map_file model_input_names backend "
           "is_local local_files_only return_token_type_ids legacy use_default_system_prompt "
           "response_schema response_template transformers_version trust_remote_code use_fast",
           ignored("a note"))
    | {"auto_map": ignored("code of a checkpoint is never run, as transformers does by default")}
)  # fmt: skip


# Of one added token.
TOKEN_RULES: dict[str, Rule] = (
    each("id content", OBEYED)
    | each("lstrip rstrip single_word", only(False, why="it would change the text around it"))
    | each("special", ignored("no token is left out of an answer's text"))
    | each("normalized", ignored("NFC leaves these tokens as they are"))
    | each("__type", ignored("a note"))
)


def tokenizer_file(directory: Path) -> Path:
    """A directory's tokenizer.json.

    Raises:
        CheckpointError: there is none.
    """
    path = directory / TOKENIZER
    if not path.is_file():
        raise CheckpointError(
            f"{directory} has no {TOKENIZER}",
            fix="write it: transformers.AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        )
    return path


def check_pipeline(path: Path, tokenizer: Mapping[str, Any]) -> None:
    """Refuse a tokenizer.json whose pipeline is not Qwen2's.

    Raises:
        CheckpointError: it names the part.
    """
    check_keys(path.name, tokenizer, TOKENIZER_RULES)
    model: object = tokenizer.get("model")
    parts = cast("dict[str, object]", model) if isinstance(model, dict) else {}
    lists = parts.get("merges"), tokenizer.get("added_tokens")
    if not isinstance(parts.get("vocab"), dict) or not all(isinstance(v, list) for v in lists):
        raise CheckpointError(f"{path} is no tokenizer of the tokenizers library", fix="replace it")
    check_keys(f"{path.name}: model", parts, MODEL_RULES)
    wanted = {
        "normalizer": tokenizer.get("normalizer") == {"type": "NFC"},
        "pre_tokenizer": _is_qwen2_split(tokenizer.get("pre_tokenizer")),
        "decoder": _type(tokenizer.get("decoder")) == "ByteLevel",
        "post_processor": _adds_nothing(tokenizer.get("post_processor")),
    }
    for part, right in wanted.items():
        if not right:
            raise CheckpointError(
                f"{path}: its {part} is not Qwen2's: {str(tokenizer.get(part))[:200]}",
                fix="use a checkpoint with Qwen2's tokenizer (transformers' versions read this one "
                "differently)",
            )


def check_added(directory: Path, added: Mapping[str, int], settings: Mapping[str, Any]) -> None:
    """Refuse added tokens on which the files disagree.

    Args:
        added: tokenizer.json's, with their ids.
        settings: tokenizer_config.json.

    Raises:
        CheckpointError: it names the token and both files.
    """
    check_keys(SETTINGS, settings, SETTINGS_RULES)
    decoder: object = settings.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        entries = cast("dict[str, dict[str, Any]]", decoder)
        other = {str(e["content"]): int(i) for i, e in entries.items()}
        for entry in entries.values():
            check_token(SETTINGS, entry)
        missing = {token: number for token, number in added.items() if token not in other}
        _refuse_different(SETTINGS, other, added)
        _refuse_different(TOKENIZER, missing, other)
    else:
        other = optional_json(directory / "added_tokens.json")
        _refuse_different("added_tokens.json", {str(t): int(n) for t, n in other.items()}, added)
    for key in _NAMED:
        if settings.get(key) and _content(settings[key]) is None:
            raise CheckpointError(
                f"{directory / SETTINGS}: {key} is {settings[key]!r}, which is no token",
                fix="write a token of the vocabulary, or null",
            )
    for key, token in _mentioned(settings):
        if token not in added:
            raise CheckpointError(
                f"{directory / SETTINGS}: {key} names {token!r}, which is no added token of "
                f"{TOKENIZER}; transformers would add a new one, which the model never saw",
                fix=f"take {SETTINGS} and {TOKENIZER} from one checkpoint",
            )


def check_token(name: str, token: Mapping[str, Any]) -> None:
    """Refuse an added token, of file `name`, that swallows what stands around it."""
    check_keys(f"{name}: {token.get('content')!r}", token, TOKEN_RULES)


def named_tokens(directory: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens a template may call by name, as in transformers 5.x."""
    found: dict[str, Any] = {**_DEFAULTS} if _is_qwen2(settings) else {}
    found |= {key: settings[key] for key in _NAMED if key in settings}
    if "added_tokens_decoder" not in settings:  # then an older file counts
        legacy = optional_json(directory / "special_tokens_map.json")
        found |= {key: legacy[key] for key in _NAMED if key in legacy}
    return {key: token for key, value in found.items() if (token := _content(value)) is not None}


def _is_qwen2(settings: Mapping[str, Any]) -> bool:
    return str(settings.get("tokenizer_class") or CLASSES[0]).startswith("Qwen2Tokenizer")


def _refuse_different(name: str, mine: Mapping[str, int], theirs: Mapping[str, int]) -> None:
    """Raise if a token of `mine`, which file `name` lists, has another id in `theirs` or none."""
    for token, number in mine.items():
        if theirs.get(token) != number:
            other = SETTINGS if name == TOKENIZER else TOKENIZER
            raise CheckpointError(
                f"{name} gives {token!r} the id {number}, and {other} "
                f"{theirs.get(token, 'does not list it')}",
                fix="take the tokenizer's files from one checkpoint",
            )


def _mentioned(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every special token that tokenizer_config.json names, and the key that does."""
    for key, value in settings.items():
        if key in ("additional_special_tokens", "extra_special_tokens"):
            named = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
            entries = cast("list[object]", value) if isinstance(value, list) else named.values()
            for entry in entries:
                if (token := _content(entry)) is not None:
                    yield key, token
        elif key.endswith("_token") and (token := _content(value)) is not None:
            yield key, token


def _content(value: object) -> str | None:
    """A token's text, from a string or a saved `AddedToken`."""
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get("content")
    return value if isinstance(value, str) and value else None


def _type(part: object) -> str | None:
    return cast("dict[str, Any]", part).get("type") if isinstance(part, dict) else None


def _is_qwen2_split(part: object) -> bool:
    if _type(part) != "Sequence":
        return False
    steps: list[Any] = cast("dict[str, Any]", part).get("pretokenizers") or []
    if len(steps) != 2 or _type(steps[1]) != "ByteLevel":
        return False
    bytes_ = cast("dict[str, Any]", steps[1])
    return steps[0] == _SPLIT and not bytes_.get("add_prefix_space") and not bytes_.get("use_regex")


def _adds_nothing(part: object) -> bool:
    """Whether a post-processor leaves the ids of one text as they are."""
    kind = _type(part)
    if part is None or kind == "ByteLevel":
        return True
    settings = cast("dict[str, Any]", part)
    if kind == "Sequence":
        steps: list[Any] = settings.get("processors") or []
        return all(map(_adds_nothing, steps))
    pieces: list[Any] = settings.get("single") or []
    return kind == "TemplateProcessing" and [list(p) for p in pieces] == [["Sequence"]]
