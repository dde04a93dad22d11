"""Benchmarks that are tables."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from biomamba.data.cleaning.benchmarks import TextColumns
from biomamba.runtime.errors import ConfigError, DataError

ROWS: list[dict[str, Any]] = [
    {"name": "a", "question": "Why?", "options": ["one", "two"], "pmid": 12},
    {"name": "b", "question": "How?", "options": ["three"], "pmid": None},
]
COLUMNS: dict[str, Any] = {"text_columns": ["question", "options"]}


def written(tmp_path: Path, rows: list[dict[str, Any]]) -> list[str]:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path)]


def test_an_item_holds_the_texts_of_its_columns(tmp_path: Path) -> None:
    benchmark = TextColumns(
        written(tmp_path, ROWS), **COLUMNS, id_column="name", pmid_column="pmid"
    )
    first, second = benchmark.items()

    assert (first.id, first.texts, first.pmids) == ("a", ["Why?", "one", "two"], ["12"])
    assert (second.id, second.texts, second.pmids) == ("b", ["How?", "three"], [])


def test_items_without_an_id_are_named_by_their_row(tmp_path: Path) -> None:
    items = TextColumns(written(tmp_path, ROWS), **COLUMNS).items()

    assert [item.id for item in items] == ["set.jsonl row 1", "set.jsonl row 2"]


def test_parquet_and_csv_hold_the_same_items(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{"q": "Why?"}, {"q": "How, then?"}])
    pyarrow.parquet.write_table(table, tmp_path / "set.parquet")
    (tmp_path / "set.csv").write_text('q\nWhy?\n"How, then?"\n')
    found = [
        [item.texts for item in TextColumns([str(tmp_path / name)], ["q"]).items()]
        for name in ("set.parquet", "set.csv")
    ]

    assert found == [[["Why?"], ["How, then?"]]] * 2


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "has no rows"),
        ([{"question": "Why?"}], r"has no column \['options'\]"),
        ([{"question": 5, "options": []}], "column 'question' is not text"),
        ([{"question": "Why?", "options": {"A": "x"}}], "column 'options' is not text"),
    ],
)
def test_a_file_of_another_layout_is_refused(
    rows: list[dict[str, Any]], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        list(TextColumns(written(tmp_path, rows), **COLUMNS).items())


def test_damaged_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_text('{"question": "Why?"}\n{cut')

    with pytest.raises(DataError, match=r"set\.jsonl:2: row is not JSON"):
        list(TextColumns([str(tmp_path / "set.jsonl")], ["question"]).items())


def test_no_files_or_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match="must name at least one each"):
        TextColumns([], ["text"])
    with pytest.raises(ConfigError, match="must name at least one each"):
        TextColumns(["set.jsonl"], [])


def test_settings_hold_the_columns(tmp_path: Path) -> None:
    benchmark = TextColumns(written(tmp_path, ROWS), **COLUMNS)

    assert benchmark.settings()["text_columns"] == ["question", "options"]
    assert list(benchmark.fingerprints()) == ["set.jsonl"]
