"""What people pass that is no batch or item: taken, or refused with a fix that works when followed.

Fixes are Python; the tests evaluate the very text of the message.
"""

from __future__ import annotations

import datetime
import decimal
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy
import numpy as np
import pytest
from PIL import Image as PILImage

from ume_core import Image, InvalidItem, Item, MediaError, Text, Video, as_items
from ume_core.embedder import prepare_items
from ume_core.fetch import Access
from ume_core.items import check_batch
from ume_core.media import load_video, open_image
from ume_core.testing import FakeEmbedder

BUFFER = io.BytesIO()
PILImage.new("RGB", (30, 20), "red").save(BUFFER, "PNG")
PNG = BUFFER.getvalue()


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is an optional source of values")


def texts(items: Sequence[Item]) -> list[str]:
    return [item.text for item in items]


def decode(items: Sequence[Item]) -> None:
    """Every picture and clip of the items can be opened."""
    for part in (p for item in items for p in item.media):
        if isinstance(part, Image):
            assert open_image(part, Access()).size == (30, 20)
        else:
            assert load_video(part, Access()).images


# Taken.


def column(*values: str) -> Any:
    return library("datasets").Dataset.from_dict({"text": list(values)})["text"]


TAKEN: dict[str, Callable[[], Any]] = {
    "tuple": lambda: ("a", "b"),
    "datasets Column": lambda: column("a", "b"),
    "pandas Series": lambda: library("pandas").Series(["a", "b"]),
    "pandas Series of objects": lambda: library("pandas").Series(["a", "b"], dtype=object),
    "pandas Series with another index": lambda: library("pandas").Series({"x": "a", "y": "b"}),
    "pandas Index": lambda: library("pandas").Index(["a", "b"]),
    "pandas categories": lambda: library("pandas").Series(["a", "b"], dtype="category"),
    "numpy strings": lambda: np.array(["a", "b"]),
    "numpy objects": lambda: np.array(["a", "b"], dtype=object),
    "numpy string array": lambda: np.array(["a", "b"], dtype=np.dtypes.StringDType()),
    "polars Series": lambda: library("polars").Series(["a", "b"]),
    "pyarrow Array": lambda: library("pyarrow").array(["a", "b"]),
    "pyarrow ChunkedArray": lambda: library("pyarrow").chunked_array([["a"], ["b"]]),
}


@pytest.mark.parametrize("name", TAKEN)
def test_columns_and_arrays_of_texts_are_batches(name: str) -> None:
    values = TAKEN[name]()
    assert texts(as_items(values)) == ["a", "b"]
    one, other = FakeEmbedder().embed(values).disc, FakeEmbedder().embed(["a", "b"]).disc
    assert np.array_equal(one, other)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["image", None])
@pytest.mark.parametrize("stored", ["bytes", "path"])
def test_undecoded_pictures_of_datasets_are_taken(
    key: str | None, stored: str, tmp_path: Path
) -> None:
    datasets = library("datasets")
    (tmp_path / "a.png").write_bytes(PNG)
    cell = {"bytes": PNG, "path": None} if stored == "bytes" else str(tmp_path / "a.png")
    rows = datasets.Dataset.from_dict({"image": [cell]}).cast_column(
        "image", datasets.Image(decode=False)
    )
    values = rows["image"] if key is None else [{"image": rows[0]["image"], "text": "a"}]
    items = as_items(values)
    assert [type(p) for p in items[0].media] == [Image]
    decode(items)


def test_an_undecoded_clip_is_told_by_its_path() -> None:
    (item,) = as_items([{"bytes": b"x", "path": "a/b.MP4"}])
    assert isinstance(item.parts[0], Video)
    (item,) = as_items([{"video": {"bytes": b"x", "path": None}}])
    assert isinstance(item.parts[0], Video) and item.parts[0].source == b"x"


def test_decoded_pictures_of_datasets_are_taken_one_at_a_time() -> None:
    datasets = library("datasets")
    rows = datasets.Dataset.from_dict({"image": [PILImage.new("RGB", (30, 20))] * 3})
    pictures = rows.cast_column("image", datasets.Image())["image"]
    assert check_batch(pictures) is pictures  # not decoded all at once
    decode(as_items(pictures))


# Refused, with a fix that is followed to the letter.


def stream() -> Any:
    return library("datasets").Dataset.from_dict({"text": ["a", "b"]}).to_iterable_dataset()


def generator() -> Iterator[str]:
    yield from ("a", "b")


def tensor(*shape: int, dtype: str = "uint8") -> Any:
    torch = library("torch")
    return torch.ones(*shape).to(getattr(torch, dtype))


def picture_array(*shape: int) -> Any:
    return np.zeros(shape, np.uint8)


BATCHES: dict[str, tuple[Callable[[], Any], str]] = {
    "text": (lambda: "a", "[values]"),
    "dict": (lambda: {"text": "a"}, "[values]"),
    "path": (lambda: Path("a.png"), "[values]"),
    "PIL image": (lambda: PILImage.new("RGB", (30, 20)), "[values]"),
    "Image": (lambda: Image(PNG), "[values]"),
    "Item": (lambda: Item((Text("a"),)), "[values]"),
    "bytes": (lambda: PNG, "[Image(values)]"),
    "bytearray": (lambda: bytearray(PNG), "[Image(bytes(values))]"),
    "memoryview": (lambda: memoryview(PNG), "[Image(bytes(values))]"),
    "BytesIO": (lambda: io.BytesIO(PNG), "[Image(values.getvalue())]"),
    "open file": (lambda: io.BufferedReader(io.BytesIO(PNG)), "[Image(values.read())]"),  # type: ignore[arg-type]
    "lines of a file": (lambda: io.StringIO("a\nb\n"), "list(values)"),
    "generator": (generator, "list(values)"),
    "map": (lambda: map(str, [1, 2]), "list(values)"),
    "set": (lambda: {"a"}, "list(values)"),
    "dict values": (lambda: {"x": "a"}.values(), "list(values)"),
    "picture array": (lambda: picture_array(20, 30, 3), "[values]"),
    "grey array": (lambda: picture_array(20, 30), "[values]"),
    "pictures in an array": (lambda: picture_array(2, 20, 30, 3), "list(values)"),
    "a clip in an array": (lambda: picture_array(2, 20, 30, 3), "[values]"),
    "grey pictures in an array": (lambda: picture_array(2, 20, 30), "list(values)"),
    "table of texts": (lambda: np.array([["a"], ["b"]]), "values.ravel()"),
    "one text in an array": (lambda: np.array("a"), "[values.item()]"),
    "encoded texts": (lambda: np.array([b"a"]), "numpy.char.decode(values, 'utf-8').ravel()"),
    "pandas table": (lambda: library("pandas").DataFrame({"n": [1], "text": ["a"]}),
                     "values['text']"),
    "other pandas table": (lambda: library("pandas").DataFrame({"title": ["a"]}),
                           "values['title']"),
    "polars table": (lambda: library("polars").DataFrame({"title": ["a"]}), "values['title']"),
    "pyarrow table": (lambda: library("pyarrow").table({"title": ["a"]}), "values['title']"),
    "datasets table": (lambda: library("datasets").Dataset.from_dict({"title": ["a"]}),
                       "values['title']"),
    "datasets stream": (stream, "[row['text'] for row in values]"),
    "datasets splits": (lambda: library("datasets").DatasetDict(
        {"train": library("datasets").Dataset.from_dict({"text": ["a"]})}),
        "values['train']['text']"),
    "tensor (C, H, W)": (lambda: tensor(3, 20, 30),
                         "[values.detach().cpu().permute(1, 2, 0).numpy()]"),
    "tensor (H, W, C)": (lambda: tensor(20, 30, 3), "[values.detach().cpu().numpy()]"),
    "tensor (H, W)": (lambda: tensor(20, 30, dtype="float32"),
                      "[values.detach().cpu().float().numpy()]"),
    "bfloat16 tensor": (lambda: tensor(3, 20, 30, dtype="bfloat16"),
                        "[values.detach().cpu().float().permute(1, 2, 0).numpy()]"),
    "int64 tensor": (lambda: tensor(3, 20, 30, dtype="int64"),
                     "[values.detach().cpu().byte().permute(1, 2, 0).numpy()]"),
    "tensor that needs a gradient": (
        lambda: tensor(3, 20, 30, dtype="float32").requires_grad_(),
        "[values.detach().cpu().float().permute(1, 2, 0).numpy()]"),
    "tensor (N, C, H, W)": (lambda: tensor(2, 3, 20, 30),
                            "[v.detach().cpu().permute(1, 2, 0).numpy() for v in values]"),
}  # fmt: skip
# What stands for one item of a batch.
MEMBERS: dict[str, tuple[Callable[[], Any], str]] = {
    "bytes": (lambda: PNG, "Image(value)"),
    "bytearray": (lambda: bytearray(PNG), "Image(bytes(value))"),
    "BytesIO": (lambda: io.BytesIO(PNG), "Image(value.getvalue())"),
    "number": (lambda: 3, "str(value)"),
    "numpy number": (lambda: np.float32(3), "str(value)"),
    "decimal": (lambda: decimal.Decimal("1.5"), "str(value)"),
    "date": (lambda: datetime.date(2026, 1, 1), "str(value)"),
    "truth": (lambda: True, "str(value)"),
    "generator": (generator, "list(value)"),
    "pandas Series": (lambda: library("pandas").Series(["a"]), "embed(value)"),
    "datasets Column": (lambda: column("a"), "embed(value)"),
    "strings": (lambda: np.array(["a"]), "embed(value.ravel())"),
    "one string": (lambda: np.array("a"), "value.item()"),
    "pandas table": (lambda: library("pandas").DataFrame({"title": ["a"]}),
                     "embed(value['title'])"),
    "picture tensor": (lambda: tensor(3, 20, 30), "value.detach().cpu().permute(1, 2, 0).numpy()"),
    "clip tensor": (lambda: tensor(2, 3, 20, 30),
                    "value.detach().cpu().permute(0, 2, 3, 1).numpy()"),
}  # fmt: skip
# What a picture's source may not be.
SOURCES: dict[str, tuple[Callable[[], Any], str]] = {
    "bytearray": (lambda: bytearray(PNG), "bytes(value)"),
    "BytesIO": (lambda: io.BytesIO(PNG), "value.getvalue()"),
    "open file": (lambda: io.BufferedReader(io.BytesIO(PNG)), "value.read()"),  # type: ignore[arg-type]
    "undecoded": (lambda: {"bytes": PNG, "path": None},
                  "value['path' if value['bytes'] is None else 'bytes']"),
    "tensor": (lambda: tensor(3, 20, 30), "value.detach().cpu().permute(1, 2, 0).numpy()"),
}  # fmt: skip


def follow(error: pytest.ExceptionInfo[InvalidItem], code: str, **names: Any) -> Any:
    """The value of the code that the fix gives."""
    assert code in error.value.fix
    known = {"numpy": numpy, "Image": Image, "Video": Video, "Path": Path, "embed": as_items}
    return eval(code, {**known, **names})


@pytest.mark.parametrize("name", BATCHES)
def test_the_fix_for_what_is_no_batch_works(name: str) -> None:
    make, code = BATCHES[name]
    values = make()
    with pytest.raises(InvalidItem, match="embed\\(\\) takes a list of items, not ") as error:
        as_items(values)
    fixed = follow(error, code, values=values)
    items = as_items(fixed)
    assert items
    if name != "path":
        decode(items)


@pytest.mark.parametrize("name", MEMBERS)
def test_the_fix_for_what_is_no_item_works(name: str) -> None:
    make, code = MEMBERS[name]
    value = make()
    with pytest.raises(InvalidItem, match=r"^item 1: cannot embed a ") as error:
        as_items(["first", value])
    fixed = follow(error, code, value=value)
    decode(fixed if code.startswith("embed(") else as_items(["first", fixed]))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("wrap", [Image, lambda v: Video([v])], ids=["picture", "frame"])
def test_the_fix_for_what_is_no_source_works(name: str, wrap: Callable[[Any], Any]) -> None:
    make, code = SOURCES[name]
    value = make()
    with pytest.raises(InvalidItem, match="cannot be a ") as error:
        wrap(value)
    decode([Item((wrap(follow(error, code, value=value)),))])


@pytest.mark.parametrize("missing", ["None", "float('nan')", "numpy.float32('nan')", "pd.NA"])
def test_missing_values_are_called_missing(missing: str) -> None:
    value = eval(missing, {"numpy": numpy, "pd": library("pandas")})
    with pytest.raises(InvalidItem, match=r"^item 1: .*leave missing values out"):
        as_items(["a", value])


def test_other_paths_are_made_paths() -> None:
    value = PurePosixPath("a.png")
    with pytest.raises(InvalidItem, match=r"pass Path\(value\)"):
        Image(value)  # type: ignore[arg-type]
    assert Image(Path(value)).source == Path("a.png")


def test_an_unknown_key_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InvalidItem, match=r"'txt'.*use fps, image, .*text, .*video"):
        as_items([{"txt": "a"}])


# One bad item does not take the others down, whatever it raises.


class Broken(Sequence[Any]):
    """A column whose second row cannot be read."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        if index == 1:
            raise OSError("row 1 is gone")
        return "abc"[index]


def test_a_row_that_cannot_be_read_fails_alone() -> None:
    result = FakeEmbedder().embed(Broken(), on_error="record")
    assert [r.status for r in result.records] == ["ok", "failed", "ok"]
    assert "OSError: row 1 is gone" in str(result.records[1].reason)
    with pytest.raises(InvalidItem, match=r"^item 1: reading the item raised OSError") as error:
        FakeEmbedder().embed(Broken())
    assert isinstance(error.value.__cause__, OSError)  # the traceback the fix speaks of


def test_errors_of_known_kinds_are_named_for_what_they_are() -> None:
    def run_out(_: Item) -> None:
        raise MemoryError

    def dive(item: Item) -> None:
        dive(item)

    for prepare, says in ((run_out, "does not fit in memory"), (dive, "nested too deeply")):
        (found,) = prepare_items(["a"], prepare, instruction=None, on_error="record")
        assert says in str(found)


def test_our_own_errors_have_no_cause_that_repeats_them() -> None:
    with pytest.raises(MediaError) as error:
        prepare_items(
            [Image("missing.png")],
            lambda item: open_image(item.media[0], Access()),  # type: ignore[arg-type]
            instruction=None,
            on_error="raise",
        )
    assert error.value.__cause__ is not error.value
    assert error.value.item == 0
