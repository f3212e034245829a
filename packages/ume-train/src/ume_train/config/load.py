"""From a preset's name or a file, and `--set`, to a checked configuration."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError

from ume_core.errors import InvalidOption
from ume_train.config.stages import GRPOConfig, SFTConfig, StageConfig

Stage = Literal["sft", "grpo"]
PRESETS = (
    "published-2b", "published-7b", "recommended-2b", "recommended-7b", "nano", "tiny",
)  # fmt: skip
CONFIGS: dict[str, type[StageConfig]] = {"sft": SFTConfig, "grpo": GRPOConfig}
C = TypeVar("C", bound=StageConfig)


def read_config(stage: Stage, name: str, changes: Sequence[str] = ()) -> StageConfig:
    """The configuration of a stage.

    Args:
        stage: `sft` or `grpo`.
        name: a preset, or a YAML file; a file's key `extends` names the preset or file it changes.
        changes: `key=value`, keys with dots, values as YAML: `optimizer.lr=1e-5`.

    Raises:
        InvalidOption: no such preset or file, or a key or value that does not fit; all are named.
    """
    given = _values(stage, name, ())
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign or not key:
            raise InvalidOption(f"--set {change!r} has no value", fix="write --set key=value")
        try:
            found = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InvalidOption(
                f"--set {change!r} has no YAML value ({' '.join(str(error).split())})",
                fix="quote it, or close its brackets",
            ) from error
        _put(given, key.split("."), _scalar(found), change)
    return check_config(CONFIGS[stage], given, name)


def check_config(kind: type[C], given: Mapping[str, Any], name: str) -> C:
    """An instance of a configuration class.

    Raises:
        InvalidOption: with every key that does not fit.
    """
    try:
        return kind.model_validate(_scalar(given))
    except ValidationError as error:
        problems = [_problem(e) for e in error.errors()]
        unknown = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
        meant = "".join(dict.fromkeys(_meant(kind, place) for place in unknown))
        raise InvalidOption(
            f"{name} does not fit: {'; '.join(problems)}",
            fix=f"{meant}see the presets' files ({preset_file('sft', 'tiny').parent})",
        ) from error


def preset_file(stage: Stage, name: str) -> Path:
    """A preset's file."""
    return Path(str(files("ume_train") / "presets" / f"{stage}-{name}.yaml"))


def _values(stage: Stage, name: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = preset_file(stage, name) if name in PRESETS else Path(name)
    if not path.is_file():
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InvalidOption(
            f"{name!r} is neither a preset nor a file",
            fix=f"{hint}the presets are {', '.join(PRESETS)}",
        )
    if path in seen:
        raise InvalidOption(f"{path} extends itself", fix="remove one of the keys extends")
    try:
        found: object = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{path} is no YAML: {error}", fix="mend the file") from error
    if not isinstance(found, dict):
        raise InvalidOption(f"{path} is no mapping of sections", fix="see ume train sft --help")
    given = cast("dict[str, Any]", found)
    base: object = given.pop("extends", None)
    if base is None:
        return given
    return _merged(_values(stage, str(base), (*seen, path)), given)


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in change.items():
        old = out.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        out[key] = _merged(cast("Any", old), cast("Any", value)) if both else value
    return out


def _put(given: dict[str, Any], keys: list[str], value: Any, change: str) -> None:
    for key in keys[:-1]:
        inner = given.setdefault(key, {})
        if inner is None:
            inner = given[key] = {}
        if not isinstance(inner, dict):
            raise InvalidOption(f"--set {change}: {key} is no section", fix="name a key of one")
        given = cast("dict[str, Any]", inner)
    given[keys[-1]] = value


def _scalar(value: Any) -> Any:
    """YAML 1.1 takes 1e-5, without a dot, for a string."""
    if isinstance(value, Mapping):
        return {k: _scalar(v) for k, v in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, str) and value[:1].isdigit():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _meant(kind: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """The key that an unknown one is like: of its section, or of any."""
    known: dict[str, list[str]] = {}
    for section, field in kind.model_fields.items():
        known.setdefault(section, []).append(section)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for key in field.annotation.model_fields:
                known.setdefault(key, []).append(f"{section}.{key}")
    key = str(place[-1])
    near = difflib.get_close_matches(key, known, n=1)
    if not near:
        return ""
    beside = f"{place[0]}.{near[0]}"
    return f"did you mean {beside if beside in known[near[0]] else known[near[0]][0]}? "


def _problem(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"there is no key {place}"
    if error["type"] == "missing":
        return f"{place} is missing"
    return f"{place} {error['input']!r}: {error['msg']}" if place else str(error["msg"])
