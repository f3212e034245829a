"""Other libraries' containers and values: which are taken, and the line that mends the others.

They are told by their module and shape, so that nothing has to be imported to look at them. A fix
is Python that works as it stands: `values` is what was passed to `embed()`, `value` one item of it.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from numbers import Number
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

# One-dimensional columns, and the method that makes a list of one.
_COLUMNS = {"pandas": "tolist", "polars": "to_list", "pyarrow": "to_pylist"}
_TABLES = frozenset(("DataFrame", "Dataset", "IterableDataset", "Table"))
_TENSORS = frozenset(("torch", "torchvision", "tensorflow", "jax", "jaxlib"))
_KNOWN_COLUMNS = ("text", "image", "video")
_CHANNELS = (1, 3, 4)


def as_sequence(values: object) -> Sequence[Any] | None:
    """The members of what holds items one by one, or None if `values` is no such thing.

    Taken are lists, tuples and other sequences (a datasets Column stays lazy), columns of pandas,
    polars and pyarrow, and one-dimensional arrays of strings or objects.
    """
    if isinstance(values, (list, tuple)):
        return cast("Sequence[Any]", values)
    if isinstance(values, np.ndarray):
        array = cast("npt.NDArray[Any]", values)
        return array.tolist() if array.ndim == 1 and array.dtype.kind in "UTO" else None
    if isinstance(values, (str, bytes, bytearray, memoryview, range)) or _is_table(values):
        return None
    if isinstance(values, Sequence):
        return cast("Sequence[Any]", values)
    method = getattr(values, _COLUMNS.get(_library(values), ""), None)
    return None if method is None else cast("Sequence[Any]", method())


def batch_fix(values: Any) -> str:
    """What to pass to `embed()` instead of `values`, which are no batch of items."""
    if type(values).__name__ in ("DatasetDict", "IterableDatasetDict"):
        return "pass a column of one split, such as values['train']['text']"
    if _is_table(values):
        return f"pass one column: {_column(values, 'values')}"
    if _library(values) in _TENSORS and hasattr(values, "shape"):
        return _tensors_fix(values)
    if isinstance(values, np.ndarray):
        return _array_fix(cast("npt.NDArray[Any]", values), "values")
    source = None if isinstance(values, Path) else source_expression(values, "values")
    if source is not None:
        return f"pass a list: [Image({source})]"
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        return "wrap it in a list: [values]"
    return "pass list(values)"


def item_fix(value: Any) -> str:
    """What to pass instead of `value`, which is no item."""
    if _is_missing(value):
        return "leave missing values out"
    if _is_table(value):
        return f"pass one column by itself: embed({_column(value, 'value')})"
    if isinstance(value, np.ndarray):
        return _array_fix(cast("npt.NDArray[Any]", value), "value")
    source = source_expression(value, "value")
    if source is not None:
        return f"pass Image({source})" if _library(value) not in _TENSORS else f"pass {source}"
    if isinstance(value, (list, tuple)):
        return "put its members into the item's own list"
    if as_sequence(value) is not None:
        return "pass it by itself, not in a list: embed(value)"
    if isinstance(value, (Iterator, AbstractSet, range)):
        return "pass list(value), which makes one item of its members"
    if isinstance(value, (Number, np.generic)) or _library(value) in ("datetime", "uuid"):
        return "pass str(value) to embed it as a text"
    return "pass str, Path, PIL image, array, dict, messages, or ume_core's Text, Image, Video"


def source_expression(value: Any, name: str) -> str | None:
    """Python that makes a media source of the value called `name`, or None if none is known."""
    if isinstance(value, bytes):
        return name
    if isinstance(value, (bytearray, memoryview)):
        return f"bytes({name})"
    if isinstance(value, io.BytesIO):
        return f"{name}.getvalue()"
    if isinstance(value, io.IOBase) and not isinstance(value, io.TextIOBase):
        return f"{name}.read()"
    if isinstance(value, os.PathLike):
        return f"Path({name})"
    if is_undecoded(value):
        return f"{name}['path' if {name}['bytes'] is None else 'bytes']"
    if _library(value) in _TENSORS and hasattr(value, "shape"):
        return _tensor_expression(value, name)
    return None


def is_undecoded(value: object) -> bool:
    """Whether it is `{"bytes":…, "path":…}`, a row of `datasets.Image(decode=False)` or `Video`."""
    if not isinstance(value, Mapping):
        return False
    entry = cast("Mapping[str, Any]", value)
    return len(entry) == 2 and "bytes" in entry and "path" in entry


def undecoded_source(entry: Mapping[str, Any]) -> Any:
    """Its bytes, else its path."""
    return entry["bytes"] if entry["bytes"] is not None else entry["path"]


def _library(value: object) -> str:
    return type(value).__module__.partition(".")[0]


def _is_missing(value: object) -> bool:
    """None, NaN, and pandas's NA and NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and math.isnan(cast("float", value))


def _is_table(values: object) -> bool:
    return type(values).__name__ in _TABLES and _library(values) in (*_COLUMNS, "datasets")


def _column(table: Any, name: str) -> str:
    """Python that takes a column of a table: one of a known name, else the first."""
    found = getattr(table, "column_names", None)  # pyarrow's `columns` are the data
    found = getattr(table, "columns", None) if found is None else found
    names: list[object] = [] if found is None else list(found)
    known: list[object] = [n for n in _KNOWN_COLUMNS if n in names]
    column = (known or names or ["text"])[0]
    if type(table).__name__ == "IterableDataset":  # it has no columns to take
        return f"[row[{column!r}] for row in {name}]"
    return f"{name}[{column!r}]"


def _array_fix(array: npt.NDArray[Any], name: str) -> str:
    if array.dtype.kind == "S":
        return f"decode it and pass it by itself: numpy.char.decode({name}, 'utf-8').ravel()"
    if array.dtype.kind in "UTO":
        if array.ndim == 0:
            return f"pass [{name}.item()]" if name == "values" else f"pass {name}.item()"
        return f"pass it by itself, in one dimension: embed({name}.ravel())"
    if array.ndim == 4:
        return f"pass list({name}) for pictures, or [{name}] for one clip"
    if array.ndim == 3 and array.shape[2] not in _CHANNELS:
        return f"pass list({name}) for pictures of one channel"
    return f"wrap it in a list: [{name}]"


def _tensors_fix(values: Any) -> str:
    """A batch of pictures in one tensor, or one picture."""
    if len(values.shape) != 4:
        return f"pass a list: [{_tensor_expression(values, 'values')}]"
    return f"pass a list of pictures: [{_tensor_expression(values[0], 'v')} for v in values]"


def _tensor_expression(tensor: Any, name: str) -> str:
    """Python that makes an array (…, H, W, channels) of a tensor."""
    if _library(tensor) not in ("torch", "torchvision"):
        return f"numpy.asarray({name})"
    shape = tuple(int(n) for n in tensor.shape)
    steps = ".detach().cpu()"
    if tensor.is_floating_point():
        steps += ".float()"
    elif str(tensor.dtype) != "torch.uint8":
        steps += ".byte()"
    if len(shape) in (3, 4) and shape[-3] in _CHANNELS:
        steps += ".permute(1, 2, 0)" if len(shape) == 3 else ".permute(0, 2, 3, 1)"
    return f"{name}{steps}.numpy()"
