"""The general column layout: joins, rejects, ids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomamba.data.corpora.table import ColumnCorpus
from biomamba.data.document import Document, DocumentFacts, Reject, text_id
from biomamba.data.rows import LocalRows
from biomamba.runtime.errors import ConfigError

Read = Callable[..., list[Document | Reject]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return read(rows, **options): the documents of a column corpus over these rows."""

    def _read(rows: list[dict[str, Any]], **options: Any) -> list[Document | Reject]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {"text_columns": ["a", "b"], "domain": "x", "licence": "none"} | options
        corpus = ColumnCorpus(rows=LocalRows([str(path)]), **options)
        return [row for shard in corpus.shards() for row in corpus.documents(shard)]

    return _read


def test_columns_are_joined_in_order(read: Read) -> None:
    (document,) = read([{"a": "one ", "b": "two\n", "id": 7}], id_column="id")
    assert document == Document("one \n\ntwo", "7", "x")


def test_an_empty_separator_joins_without_a_seam(read: Read) -> None:
    (document,) = read([{"a": "bi ", "b": " olog"}], separator="")
    assert isinstance(document, Document)
    assert document.text == "bi  olog"


def test_without_an_id_column_the_text_names_the_document(read: Read) -> None:
    first, second, third = read([{"a": "x", "b": "y"}, {"a": "x", "b": "y"}, {"a": "x", "b": "z"}])
    assert isinstance(first, Document)
    assert isinstance(third, Document)
    assert first == second
    assert (first.id, third.id) == (text_id("x\n\ny"), text_id("x\n\nz"))


@pytest.mark.parametrize("empty", [None, "", "  \n"])
def test_an_empty_column_is_left_out_by_policy(empty: str | None, read: Read) -> None:
    assert read([{"a": "x", "b": empty}]) == [Reject("empty b", "rows.jsonl row 1")]


@pytest.mark.parametrize("empty", [None, ""])
def test_an_optional_column_may_be_empty(empty: str | None, read: Read) -> None:
    (document,) = read([{"a": empty, "b": "y"}], optional_columns=["a"])
    assert isinstance(document, Document)
    assert document.text == "y"


def test_a_short_text_is_left_out_by_policy(read: Read) -> None:
    (reject, document) = read([{"a": "ab", "b": "c"}, {"a": "ab", "b": "cd"}], min_chars=6)
    assert reject == Reject("shorter than 6 characters", "rows.jsonl row 1")
    assert isinstance(document, Document)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"a": "x"}, "no column 'b'"),
        ({"a": "x", "b": 3}, "column 'b' is not text"),
        ({"a": "x", "b": ["y"]}, "column 'b' is not text"),
        ({"a": "x", "b": "y"}, "no id in column 'id'"),
        ({"a": "x", "b": "y", "id": " "}, "no id in column 'id'"),
        ({"a": "x", "b": "y", "id": 1.0}, "no id in column 'id'"),
        ({"a": "x", "b": "y", "id": True}, "no id in column 'id'"),
        ({"a": "x", "b": "y", "id": ["1"]}, "no id in column 'id'"),
    ],
)
def test_a_technical_fault_is_damage(row: dict[str, Any], reason: str, read: Read) -> None:
    options = {"id_column": "id"} if "no id" in reason else {}
    assert read([row], **options) == [Reject(reason, "rows.jsonl row 1", is_damaged=True)]


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_zero_character_in_a_table_is_damage(name: str, tmp_path: Path) -> None:
    texts = ["x" * 5_000, "a\0b", "c"]
    if name.endswith(".csv"):
        (tmp_path / name).write_text("\n".join(["text", *texts, ""]))
    else:
        pq.write_table(pa.table({"text": texts}), tmp_path / name)
    corpus = ColumnCorpus(LocalRows([str(tmp_path / name)]), "x", "none", ["text"])
    (shard,) = corpus.shards()
    first, second, third = corpus.documents(shard)

    assert isinstance(first, Document)
    assert isinstance(third, Document)
    assert (first.text, third.text) == (texts[0], "c")
    reason = "column 'text' holds a zero character"
    assert second == Reject(reason, f"{name} row 2", is_damaged=True)


def test_a_group_column_names_the_group(read: Read) -> None:
    row = {"a": "x", "b": "y", "id": "1", "patient": 7}
    (document,) = read([row], id_column="id", group_column="patient")
    assert document == Document("x\n\ny", "1", "x", "7")


@pytest.mark.parametrize("patient", [None, "", " "])
def test_a_row_without_its_group_is_damaged(patient: str | None, read: Read) -> None:
    row = {"a": "x", "b": "y", "id": "1", "patient": patient}
    assert read([row], id_column="id", group_column="patient") == [
        Reject("no group in column 'patient'", "1", is_damaged=True)
    ]


@pytest.mark.parametrize(
    ("value", "year"), [(2003, 2003), ("2003 Nov", 2003), ("", None), (None, None), ("n/a", None)]
)
def test_a_year_column_tells_the_year(value: Any, year: int | None, read: Read) -> None:
    row = {"a": "Text.", "year": value}
    (document,) = read([row], text_columns=["a"], year_column="year")
    assert isinstance(document, Document)
    assert document.facts == DocumentFacts(year)


def test_a_row_without_the_column_of_its_year_is_damaged(read: Read) -> None:
    """A column whose name is misspelt must not pass as one without years."""
    rows = [{"id": "7", "a": "A.", "b": "B.", "year": 2003}]
    (row,) = read(rows, id_column="id", year_column="yaer")
    assert row == Reject("no column 'yaer'", "7", is_damaged=True)


def test_an_undecodable_row_is_handed_on(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{\n")
    rows = LocalRows([str(tmp_path / "a.jsonl")])
    corpus = ColumnCorpus(rows, domain="x", licence="none", text_columns=["a"])
    (reject,) = corpus.documents(corpus.shards()[0])
    assert isinstance(reject, Reject)
    assert reject.is_damaged


def test_settings_name_everything_that_decides_the_text(read: Read) -> None:
    corpus = ColumnCorpus(LocalRows(["gone.jsonl"]), "x", "none", ["a", "b"], separator=" ")
    assert corpus.settings() == {
        "layout": "ColumnCorpus",
        "text_columns": ["a", "b"],
        "optional_columns": [],
        "id_column": None,
        "group_column": None,
        "separator": " ",
        "min_chars": 1,
        "rows": {},
    }


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"text_columns": []}, "text_columns of corpus 'x' is empty"),
        ({"optional_columns": ["c"]}, r"optional_columns \['c'\]"),
        ({"min_chars": 0}, "min_chars must be"),
    ],
)
def test_impossible_layouts_are_refused(options: dict[str, Any], match: str, read: Read) -> None:
    with pytest.raises(ConfigError, match=match):
        read([], **options)
