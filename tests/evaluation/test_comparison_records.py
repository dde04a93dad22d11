"""Rows of a comparison as files."""

import csv
import io
import json
import math

from biomamba.evaluation.comparison import (
    ComparisonRecord,
    comparison_csv,
    format_comparison,
)


def make_record(**changes: object) -> ComparisonRecord:
    values: dict[str, object] = {
        "subject": "pubmedqa",
        "metric": "accuracy",
        "higher_is_better": True,
        "protocol": {"split": "test"},
        "n": 500,
        "n_groups": 500,
        "model": "adapted",
        "seed_values": [0.6],
        "value": 0.6,
        "deviation": math.nan,
        "seeds_low": math.nan,
        "seeds_high": math.nan,
        "low": 0.55,
        "high": 0.65,
        "level": 0.95,
        "method": "wilson",
        "checkpoints": ["c" * 64],
    }
    return ComparisonRecord(**(values | changes))  # type: ignore[arg-type]


def test_lines_are_strict_json_with_null_for_what_is_not_a_number() -> None:
    records = [make_record(), make_record(seed_values=[math.nan, 1.0], high=math.inf, p_value=0.5)]
    first, second = (json.loads(line) for line in format_comparison(records).splitlines())
    assert (first["deviation"], first["value"], first["p_value"]) == (None, 0.6, None)
    assert (second["seed_values"], second["high"], second["p_value"]) == ([None, 1.0], None, 0.5)
    assert "NaN" not in format_comparison(records)


def test_csv_holds_the_same_values() -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_csv([make_record(), make_record(n=7)]))))
    line = json.loads(format_comparison([make_record()]))
    assert set(rows[0]) == set(line)
    assert (rows[0]["value"], rows[0]["deviation"], rows[1]["n"]) == ("0.6", "", "7")
    assert json.loads(rows[0]["protocol"]) == {"split": "test"}
