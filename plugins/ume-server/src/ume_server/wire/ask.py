"""What a request asks for, whatever its shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ume_core.embedder import Sampling
from ume_core.errors import UmeError
from ume_core.items import Item
from ume_core.session import Lane
from ume_core.signature import Mode
from ume_server.errors import ApiError

Encoding = Literal["float", "base64"]
ONE_VECTOR = "an answer of this shape has one vector an item. Fix: use the mode disc or gen"
_QUERY_ITEMS = 8  # a request of more is bulk unless it says otherwise


@dataclass
class Ask:
    """One request.

    Attributes:
        model: the name it was asked by.
        items: what to embed, or why that is nothing to embed.
        mode: of the vectors.
        encoding: how vectors are written.
        instruction: for items that have none.
        sampling: repeated sampling.
        max_new_tokens: budget of gen.
        record_errors: whether a bad item fails alone.
        thinking: whether gen's texts are wanted.
        stream: whether they are wanted as they come.
        lane: of the session; None takes it by the number of items.
        deadline: seconds.
        ignored: fields that mean nothing here.
    """

    model: str
    items: list[Item | UmeError]
    mode: Mode = "disc"
    encoding: Encoding = "float"
    instruction: str | None = None
    sampling: Sampling | None = None
    max_new_tokens: int | None = None
    record_errors: bool = False
    thinking: bool = False
    stream: bool = False
    lane: Lane | None = None
    deadline: float | None = None
    ignored: list[str] = field(default_factory=list[str])

    @property
    def lane_taken(self) -> Lane:
        """`query` for a few items, else `bulk`, unless the request says."""
        return self.lane or ("query" if len(self.items) <= _QUERY_ITEMS else "bulk")


@dataclass(frozen=True)
class Served:
    """The model as clients name it.

    Attributes:
        name: without a mode.
        modes: that it has.
        dimensions: of its vectors.
    """

    name: str
    modes: tuple[Mode, ...]
    dimensions: int

    @property
    def names(self) -> list[str]:
        """All names: the plain one, and one for every mode."""
        return [self.name, *(f"{self.name}:{mode}" for mode in self.modes)]

    def mode(self, model: object, asked: object = None) -> tuple[str, Mode]:
        """The name and mode of a request.

        Raises:
            ApiError: no such model or mode, or two modes.
        """
        name = self.name if model is None else model
        if not isinstance(name, str) or name not in self.names:
            shown = str(name)[:80]
            raise ApiError(
                404,
                f"the model {shown!r} is not served here. Fix: use {', '.join(self.names)}",
                "model_not_found",
                "model",
            )
        suffix = name[len(self.name) + 1 :]
        if asked is not None and (asked not in self.modes or suffix not in ("", asked)):
            raise ApiError(
                400,
                f"the mode {str(asked)[:20]!r} does not go with the model {name}. "
                f"Fix: use one of {', '.join(self.modes)}, here or behind the model's name",
                "invalid_mode",
                "mode",
            )
        wanted = asked or suffix or "disc"
        return name, next(m for m in self.modes if m == wanted)


def read_json(body: bytes, depth: int) -> dict[str, Any]:
    """A request's JSON object.

    Raises:
        ApiError: it is none, or nested too deeply.
    """
    try:
        found: object = json.loads(body)
    except RecursionError:
        raise too_deep(depth) from None
    except (ValueError, UnicodeDecodeError):
        raise ApiError(
            400, "the body is not valid JSON. Fix: send UTF-8 JSON", "invalid_json"
        ) from None
    if not isinstance(found, dict):
        raise ApiError(400, "the body is not a JSON object. Fix: send {…}", "invalid_json")
    check_depth(found, depth)
    return found


def check_depth(value: object, depth: int) -> None:
    """Refuse JSON that is nested more deeply; without recursion."""
    level: list[object] = [value]
    for _ in range(depth):
        level = [inner for outer in level for inner in _members(outer)]
        if not level:
            return
    raise too_deep(depth)


def too_deep(depth: int) -> ApiError:
    """Why deep JSON is refused."""
    return ApiError(
        400, f"the JSON is nested more than {depth} deep. Fix: send flat lists", "invalid_json"
    )


def _members(value: object) -> list[object]:
    if isinstance(value, dict):
        return [v for v in value.values() if isinstance(v, (dict, list))]
    if isinstance(value, list):
        # Numbers and texts have no members: millions of them cost one look each.
        return [v for v in value if isinstance(v, (dict, list))]
    return []


class Fields:
    """The fields of a request's JSON, each taken once; null is as good as absent."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._left = {k: v for k, v in values.items() if v is not None}

    def take(self, *names: str) -> Any:
        """The first of these that is there, or None."""
        found = [self._left.pop(name, None) for name in names]
        return next((value for value in found if value is not None), None)

    def text(self, name: str) -> str | None:
        """A string."""
        return self._of(name, str, "a string")

    def flag(self, name: str) -> bool:
        """True or false; false if absent."""
        return bool(self._of(name, bool, "true or false"))

    def whole(self, *names: str, low: int = 1, high: int = 2**31) -> int | None:
        """A whole number."""
        value = self.take(*names)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high
        ):
            raise bad_field(names[0], f"is no whole number from {low} to {high:,}")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise bad_field(name, "is no number")
        if not low <= value <= high:
            raise bad_field(name, f"is not from {low:g} to {high:g}")
        return float(value)

    def choice(self, name: str, *known: str) -> str | None:
        """One of some words."""
        value = self.take(name)
        if value is not None and value not in known:
            raise bad_field(name, f"is none of {', '.join(known)}")
        return value

    def refuse(self, names: Mapping[str, str]) -> None:
        """Refuse fields that would change vectors if they were understood.

        Args:
            names: why, or what to do instead, by name.
        """
        for name, fix in names.items():
            if self._left.pop(name, None) is not None:
                raise ApiError(
                    400, f"{name} is not supported here. Fix: {fix}", "unsupported_field", name
                )

    def ignore(self, *names: str) -> None:
        """Take fields that mean nothing for vectors."""
        for name in names:
            self._left.pop(name, None)

    def rest(self) -> list[str]:
        """The names that nobody took, fit for a header."""
        return [n for n in self._left if n.isascii() and n.replace("_", "").isalnum()][:20]

    def _of(self, name: str, kind: type, what: str) -> Any:
        value = self.take(name)
        if value is not None and not isinstance(value, kind):
            raise bad_field(name, f"is not {what}")
        return value


def bad_field(name: str, wrong: str) -> ApiError:
    """Why a field is refused."""
    return ApiError(400, f"{name} {wrong}. Fix: send one that is, or none", "invalid_field", name)
