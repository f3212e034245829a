"""Which columns of a dataset hold what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ume_core.errors import InvalidOption, did_you_mean

_USUAL = (
    "text",
    "image",
    "id",
)  # taken where nobody names a column; never a path, which opens files


@dataclass(frozen=True)
class Columns:
    """Columns of a dataset, by what they hold; None where it has none.

    Attributes:
        id: strings or whole numbers, one for each row; None takes `path`.
        text: strings.
        image: the bytes of picture files, or the dicts of `datasets.Image(decode=False)`.
        path: absolute paths or URLs of pictures, clips and texts, told apart by their suffixes.
    """

    id: str | None = None
    text: str | None = None
    image: str | None = None
    path: str | None = None

    @property
    def name(self) -> str:
        """The column that names a row."""
        return self.id or self.path or ""

    @property
    def contents(self) -> list[str]:
        """The columns that are embedded."""
        return [name for name in (self.text, self.image, self.path) if name]

    @property
    def used(self) -> list[str]:
        """Every column that is read."""
        return list(dict.fromkeys([self.name, *self.contents]))

    def found_in(self, schema: Mapping[str, object]) -> Columns:
        """These columns, with those that nobody named where they have their usual names.

        Args:
            schema: column -> type, of the dataset.

        Raises:
            InvalidOption: a column is missing, of another type, or none is to be embedded.
        """
        given = {role: name for role, name in vars(self).items() if name}
        for role, name in given.items():
            if name not in schema:
                raise InvalidOption(
                    f"there is no column {name!r} for {role}",
                    fix=f"{did_you_mean(name, schema)}the columns are {_listed(schema)}",
                )
        usual = {role: role for role in _USUAL if role in schema}
        if set(given) & {"text", "image", "path"}:  # what is embedded was chosen
            usual = {role: name for role, name in usual.items() if role == "id"}
        found = Columns(**usual | given)
        if not found.contents:
            raise InvalidOption(
                "no column to embed was named, and none is called text or image",
                fix=f"name one (text, image or path); the columns are {_listed(schema)}",
            )
        if not found.name:
            raise InvalidOption(
                "no column that names the rows was given, and none is called id",
                fix=f"name one; the columns are {_listed(schema)}",
            )
        for role, name in vars(found).items():
            if name and not _fits(role, schema[name]):
                raise InvalidOption(
                    f"the column {name!r} for {role} holds {schema[name]}",
                    fix=f"name one of {_WANTED[role]}; the columns are {_listed(schema)}",
                )
        return found


_WANTED = {
    "id": "strings or whole numbers",
    "text": "strings",
    "image": "bytes of picture files",
    "path": "strings",
}


def _fits(role: str, kind: Any) -> bool:
    if not isinstance(kind, pa.DataType):
        return True  # a dataset of Python objects says nothing of its types
    if role == "image":
        struct = pa.types.is_struct(kind)
        fields = {kind.field(n).name for n in range(kind.num_fields)} if struct else set[str]()
        binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
        return fields == {"bytes", "path"} or any(fits(kind) for fits in binary)
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(fits(kind) for fits in text) or (role == "id" and pa.types.is_integer(kind))


def _listed(schema: Mapping[str, object]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in schema.items())
