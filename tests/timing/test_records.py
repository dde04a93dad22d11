"""Measured points in a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomamba.runtime.errors import ConfigError, DataError
from biomamba.timing.records import (
    EFFICIENCY_FILE,
    EfficiencyRecord,
    Point,
    RecordFile,
    curves,
    difference,
    rates,
    read_efficiency,
)

MakeRecord = Callable[..., EfficiencyRecord]
CONDITIONS = {"repeats": 3}


def test_points_are_read_as_they_were_written(record: MakeRecord, tmp_path: Path) -> None:
    path = tmp_path / "deep" / EFFICIENCY_FILE
    first, second = record(length=64), record("decode", 128, (), failure="no memory")
    file = RecordFile(path, CONDITIONS, first.provenance, overwrite=False)
    file.add([first])
    file.add([second])

    assert read_efficiency(path) == [first, second]
    again = RecordFile(path, CONDITIONS, first.provenance, overwrite=False)
    assert again.has("mamba2", Point("train", 1, 64))
    assert again.has("mamba2", Point("decode", 1, 128))
    assert not again.has("transformer", Point("train", 1, 64))
    assert not again.has("mamba2", Point("train", 2, 64))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"repeats": 5}, "repeats=3, now it is 5"),
        ({"versions": {"torch": "2"}}, r"versions\.torch='1', now it is '2'"),
        ({"machine": {"cpu": "Other", "num_cores": 2, "gpus": []}}, r"machine\.cpu='CPU', now"),
    ],
)
def test_other_conditions_are_refused_unless_overwritten(
    change: dict[str, Any], words: str, record: MakeRecord, tmp_path: Path
) -> None:
    path, one = tmp_path / EFFICIENCY_FILE, record()
    RecordFile(path, CONDITIONS, one.provenance, overwrite=False).add([one])
    conditions = CONDITIONS | {k: v for k, v in change.items() if k == "repeats"}
    origin = {**one.provenance, **{k: v for k, v in change.items() if k != "repeats"}}

    with pytest.raises(ConfigError, match=f"{words}.*overwrite=true"):
        RecordFile(path, conditions, origin, overwrite=False)
    file = RecordFile(path, conditions, origin, overwrite=True)
    assert file.records == []
    assert read_efficiency(path) == [one]  # until something new is measured
    file.add([one])
    assert len(read_efficiency(path)) == 1


def test_another_commit_or_command_is_no_other_condition(
    record: MakeRecord, tmp_path: Path
) -> None:
    path, one = tmp_path / EFFICIENCY_FILE, record()
    RecordFile(path, CONDITIONS, one.provenance, overwrite=False).add([one])
    origin = {**one.provenance, "git": {"commit": "b"}, "argv": ["x"]}

    assert RecordFile(path, CONDITIONS, origin, overwrite=False).records == [one]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{half", "line 2: not JSON"),
        ("[1]", "line 2: fields missing or not known: not an object"),
        ('{"a": 1}', "line 2: fields missing or not known: .*'a'"),
    ],
)
def test_a_damaged_line_is_named(line: str, words: str, record: MakeRecord, tmp_path: Path) -> None:
    path = tmp_path / EFFICIENCY_FILE
    path.write_text(f"{json.dumps(vars(record()))}\n{line}\n")
    with pytest.raises(DataError, match=words):
        read_efficiency(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seconds", [0.0]),
        ("seconds", ["1"]),
        ("seconds", 1.0),
        ("length", "512"),
        ("phase", "trian"),
        ("shape", []),
        ("provenance", {"machine": []}),
        ("operations", None),
        ("growth_bytes", "much"),
        ("failure", 3),
    ],
)
def test_a_field_of_another_kind_is_named(
    field: str, value: Any, record: MakeRecord, tmp_path: Path
) -> None:
    path = tmp_path / EFFICIENCY_FILE
    path.write_text(json.dumps({**vars(record()), field: value}))
    with pytest.raises(DataError, match=f"line 1: damaged: {field}"):
        read_efficiency(path)


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / EFFICIENCY_FILE
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_efficiency(path)


def test_figures_are_those_of_the_median_repeat() -> None:
    """512 tokens in 2 s; 1e9 operations in 2 s, of 4e9 in 2 s at best."""
    found = rates(Point("train", 2, 256), 8, [9.0, 2.0, 1.0], 1e9, [1.0, 2.0, 4.0], 4e9)

    assert found.tokens_per_second == pytest.approx(256)
    assert found.peak_operations_per_second == pytest.approx(2e9)
    assert found.utilisation == pytest.approx(0.25)


def test_decoding_counts_what_was_written(record: MakeRecord) -> None:
    assert rates(Point("decode", 2, 256), 8, [2.0], 1, [], 1).tokens_per_second == 8
    assert record("decode", seconds=(2.0,)).median_seconds == 0.5
    assert record("train", seconds=(2.0,)).median_seconds == 2.0


def test_without_times_there_are_no_figures(record: MakeRecord) -> None:
    found = rates(Point("train", 1, 8), 8, [], 1e9, [1.0], 1e9)

    assert (found.tokens_per_second, found.utilisation) == (None, None)
    assert record(seconds=()).median_seconds is None
    assert record(growth_bytes=None).memory_bytes is None
    assert record().memory_bytes == 1_500


def test_the_shortest_failure_is_of_as_many_rows(record: MakeRecord, tmp_path: Path) -> None:
    failed = [
        record(length=length, batch=batch, seconds=(), failure="no memory")
        for length, batch in ((64, 1), (32, 1), (16, 2))
    ]
    file = RecordFile(tmp_path / "f", CONDITIONS, failed[0].provenance, overwrite=False)
    file.add([*failed, record(length=8)])

    assert file.shortest_failure("mamba2", Point("train", 1, 128)) == 32
    assert file.shortest_failure("mamba2", Point("train", 2, 128)) == 16
    assert file.shortest_failure("mamba2", Point("decode", 1, 128)) is None
    assert file.shortest_failure("transformer", Point("train", 1, 128)) is None


def test_curves_are_sorted_and_leave_out_what_failed(record: MakeRecord) -> None:
    records = [
        record(length=64, seconds=(4.0, 6.0, 5.0)),
        record(length=32, seconds=(2.0,)),
        record(length=128, seconds=(), failure="no memory"),
        record(length=32, model="transformer", seconds=(3.0,)),
    ]
    ours, theirs = curves(records)

    assert (ours.model, ours.lengths, ours.seconds) == ("mamba2", [32, 64], [2.0, 5.0])
    assert (theirs.model, theirs.lengths, theirs.seconds) == ("transformer", [32], [3.0])


def test_the_first_difference_is_told() -> None:
    assert difference({"a": {"b": [1]}}, {"a": {"b": (1,)}}) is None
    assert difference({"a": {"b": 1}}, {"a": {}}) == "a.b=1, now it is None"
