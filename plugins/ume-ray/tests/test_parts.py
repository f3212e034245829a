"""Columns, the ledger and reading, without a cluster."""

from __future__ import annotations

import argparse

import pyarrow as pa
import pytest

from ume_core.errors import InvalidOption
from ume_ray import Columns
from ume_ray.arguments import arguments
from ume_ray.ledger import EMBED, SAME, UNCHANGED, Ledger, content_key, row_key, sorted_keys

SCHEMA = {"id": pa.int64(), "title": pa.string(), "text": pa.string(), "photo": pa.binary()}


def test_usual_names_are_taken_and_named_ones_come_first() -> None:
    assert Columns().found_in(SCHEMA) == Columns(id="id", text="text")
    assert Columns(text="title").found_in(SCHEMA) == Columns(id="id", text="title")
    assert Columns(image="photo").found_in(SCHEMA).contents == ["photo"]
    assert Columns(id="title").found_in(SCHEMA).used == ["title", "text"]
    assert Columns(path="path").found_in({"path": pa.string()}).name == "path"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (Columns(text="titel"), "there is no column 'titel' for text. Fix: did you mean 'title'"),
        (Columns(image="title"), "the column 'title' for image holds string"),
        (Columns(id="photo"), "the column 'photo' for id holds binary"),
        (Columns(path="photo"), "the column 'photo' for path holds binary"),
    ],
)
def test_a_bad_column_is_an_error_that_lists_the_columns(columns: Columns, said: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        columns.found_in(SCHEMA)
    assert said in str(caught.value)
    assert "id (int64), title (string), text (string), photo (binary)" in str(caught.value)


def test_a_table_without_ids_or_contents_is_refused() -> None:
    with pytest.raises(InvalidOption, match="no column that names the rows"):
        Columns().found_in({"text": pa.string()})
    with pytest.raises(InvalidOption, match="no column to embed was named"):
        Columns().found_in({"id": pa.string(), "path": pa.string()})  # files are opened if asked


def test_pictures_of_datasets_are_bytes_too() -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert Columns(image="image").found_in({"id": pa.string(), "image": kind}).image == "image"


def test_a_content_is_claimed_once_also_by_a_task_that_runs_again() -> None:
    ledger = Ledger(sorted_keys(b""), sorted_keys(b""))
    keys = [content_key("text", digest, "s") for digest in "aba"]
    rows = [row_key(name, "text", digest, "s") for name, digest in zip("123", "aba", strict=True)]
    owners = [b"t1", b"t2", b"t3"]
    assert ledger.claim(rows, keys, owners) == [EMBED, EMBED, SAME]
    assert ledger.claim(rows, keys, owners) == [EMBED, EMBED, SAME]  # the task was killed
    assert ledger.claim(rows[:1], keys[:1], [b"other"]) == [SAME]


def test_stored_rows_and_contents_are_known() -> None:
    stored = [row_key(str(n), "text", str(n), "s") for n in range(1000)]
    contents = [content_key("text", str(n), "s") for n in range(1000)]
    ledger = Ledger(sorted_keys(b"".join(stored)), sorted_keys(b"".join(contents)))
    rows = [row_key("5", "text", "5", "s"), row_key("new", "text", "5", "s"),
            row_key("5", "text", "new", "s")]  # fmt: skip
    asked = [content_key("text", d, "s") for d in ("5", "5", "new")]
    assert ledger.claim(rows, asked, [b"a", b"b", b"c"]) == [UNCHANGED, SAME, EMBED]
    assert ledger.claim(rows[:1], [content_key("image", "5", "s")], [b"d"]) == [UNCHANGED]
    other = [content_key("text", "5", "another signature")]
    assert ledger.claim([row_key("x", "text", "5", "another signature")], other, [b"e"]) == [EMBED]


def test_works_that_were_begun_and_not_ended_are_counted() -> None:
    ledger = Ledger(sorted_keys(b""), sorted_keys(b""))
    assert [ledger.begin(b"w") for _ in range(3)] == [1, 2, 3]
    ledger.end(b"w")
    assert ledger.begin(b"w") == 1


def test_the_arguments_need_no_ray() -> None:
    parser = argparse.ArgumentParser()
    arguments(parser)
    assert parser.parse_args(["--workers", "2", "--text-column", "t"]).workers == 2
