"""What becomes of every key of a checkpoint's files.

A key is obeyed, or has no part in a vector, or must have the one value that the engines compute
with. Nothing else passes in silence: another value is refused, an unknown key is warned about.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ume_core.errors import CheckpointError


@dataclass(frozen=True)
class Rule:
    """One key's treatment.

    Attributes:
        why: for a key without a part in a vector, the reason; else what it means.
        values: those accepted; empty for any.
        obeyed: whether the engines follow the value, so that it belongs in a digest.
    """

    why: str = ""
    values: tuple[Any, ...] = ()
    obeyed: bool = False


OBEYED = Rule(obeyed=True)


def ignored(why: str) -> Rule:
    """A key that changes no vector."""
    return Rule(why)


def only(*values: Any, why: str = "the engines compute with no other") -> Rule:
    """A key with the values that are computed with.

    null is one of them only where it is listed: transformers takes it as "off", not as the default.
    """
    return Rule(why, values)


def absent(why: str) -> Rule:
    """A key that must be null or missing."""
    return Rule(why, (None,))


def each(names: str, rule: Rule) -> dict[str, Rule]:
    """The same rule for several keys, separated by spaces."""
    return dict.fromkeys(names.split(), rule)


def check_keys(where: str, settings: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Apply the rules to a file's object.

    Args:
        where: the file (and the key of a nested object), for messages.

    Raises:
        CheckpointError: a value that the engines do not follow; it names key and value.
    """
    unknown = sorted(key for key in settings if key not in rules)
    for key, value in settings.items():
        rule = rules.get(key)
        if rule is None or not rule.values or value in rule.values:
            continue
        known = " or ".join(repr(v) for v in rule.values if v is not None) or "null"
        raise CheckpointError(
            f"{where}: {key} is {_short(value)}, and only {known} is supported ({rule.why})",
            fix=f"use a checkpoint whose {key} is {known}",
        )
    if unknown:
        named = ", ".join(f"{key} ({_short(settings[key])})" for key in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        warnings.warn(
            f"{where} has keys that are not known here and are passed over: {named}{more}",
            RuntimeWarning,
            stacklevel=2,
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
