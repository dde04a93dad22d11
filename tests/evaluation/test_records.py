"""Records to JSON lines and back."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from biomamba.evaluation.records import ResultRecord, format_records, read_records
from biomamba.runtime.errors import DataError

RECORD = ResultRecord(
    model="base",
    source="pubmed",
    split="test",
    metric="perplexity",
    unit="exp(nats per token)",
    value=8.42,
    low=8.0,
    high=9.0,
    level=0.95,
    num_documents=3,
    num_tokens=30,
    num_bytes=120,
    provenance={"commit": "abc"},
)


def test_records_survive_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(format_records([RECORD, RECORD]))
    assert read_records(path) == [RECORD, RECORD]


def test_a_record_without_an_interval_has_null_bounds_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    without = replace(RECORD, low=math.nan, high=math.inf, method="none: one group")
    path.write_text(format_records([without]))
    line = json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN, Infinity
    assert (line["low"], line["high"]) == (None, None)
    (found,) = read_records(path)
    assert (found.value, found.method) == (8.42, "none: one group")
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_records_of_earlier_versions_do_not_tell_the_method(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    values = json.loads(format_records([RECORD]))
    del values["method"]
    path.write_text(json.dumps(values) + "\n")
    assert read_records(path) == [RECORD]


def test_interval_holds_the_bounds() -> None:
    assert (RECORD.interval.low, RECORD.interval.value, RECORD.interval.high) == (8.0, 8.42, 9.0)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.jsonl: no such results file"):
        read_records(tmp_path / "nothing.jsonl")


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(format_records([RECORD]) + "{half\n")
    with pytest.raises(DataError, match="line 2: cannot be read as JSON"):
        read_records(path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    values = json.loads(format_records([RECORD]))
    del values["low"]
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(values) + "\n")
    with pytest.raises(DataError, match=r"line 1: fields missing or not known: \['low'\]"):
        read_records(path)
