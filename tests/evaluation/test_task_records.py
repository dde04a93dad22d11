"""Task records as JSON lines."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from biomamba.evaluation.records import TaskRecord, format_task_records, read_task_records
from biomamba.runtime.errors import DataError


def make_record(**changes: object) -> TaskRecord:
    values: dict[str, object] = {
        "task": "pubmedqa",
        "protocol": "pqal-500-3way",
        "split": "test",
        "metric": "accuracy",
        "value": 0.6,
        "low": 0.55,
        "high": 0.65,
        "level": 0.95,
        "method": "wilson",
        "n": 500,
        "n_groups": 500,
        "seed": 1,
        "model": "adapted",
        "prompt": "qa_v1",
        "prompt_fingerprint": "p" * 64,
        "checkpoint_sha256": "c" * 64,
        "data_fingerprint": "d" * 64,
        "provenance": {"git": {"commit": "abc"}},
    }
    return TaskRecord(**(values | changes))  # type: ignore[arg-type]


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    records = [
        make_record(),
        make_record(
            metric="accuracy_change",
            against="base",
            p_value=0.03,
            mcnemar={"p_value": 0.04},
            answer={"rule": "thresholds", "offsets": {"yes": 0.0, "no": 0.5}},
        ),
    ]
    path = tmp_path / "task_results.jsonl"
    path.write_text(format_task_records(records))

    assert read_task_records(path) == records
    assert records[0].interval.low == 0.55


def test_what_is_not_defined_is_null_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "task_results.jsonl"
    path.write_text(format_task_records([make_record(low=math.nan, high=math.nan)]))

    line = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (line["value"], line["low"], line["high"]) == (0.6, None, None)
    (record,) = read_task_records(path)
    assert math.isnan(record.low)
    assert math.isnan(record.high)


@pytest.mark.parametrize("line", ["{", "[]", "{}", json.dumps(asdict(make_record()) | {"odd": 1})])
def test_a_line_that_is_no_record_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "task_results.jsonl"
    path.write_text(format_task_records([make_record()]) + line + "\n")

    with pytest.raises(DataError, match="line 2: "):
        read_task_records(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such results file; biomamba\.evaluate"):
        read_task_records(tmp_path / "task_results.jsonl")


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "task_results.jsonl"
    line = asdict(make_record())
    new = ("rejects", "filtered", "filter_reasons")
    path.write_text(json.dumps({key: line[key] for key in line if key not in new}) + "\n")

    (record,) = read_task_records(path)

    assert (record.rejects, record.filtered, record.filter_reasons) == ({}, None, [])
