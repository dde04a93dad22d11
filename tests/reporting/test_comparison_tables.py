"""Comparisons of models as Markdown tables."""

import math

from biomamba.evaluation.comparison import Comparison, ComparisonRecord
from biomamba.reporting.tables import comparison_report, comparison_table, number_style


def make_record(**changes: object) -> ComparisonRecord:
    values: dict[str, object] = {
        "subject": "pubmedqa",
        "metric": "accuracy",
        "higher_is_better": True,
        "protocol": {},
        "n": 500,
        "n_groups": 500,
        "model": "base",
        "seed_values": [0.6],
        "value": 0.6,
        "deviation": math.nan,
        "seeds_low": math.nan,
        "seeds_high": math.nan,
        "low": 0.55,
        "high": 0.65,
        "level": 0.95,
        "method": "wilson",
        "checkpoints": ["c"],
    }
    return ComparisonRecord(**(values | changes))  # type: ignore[arg-type]


def make_compared(**changes: object) -> ComparisonRecord:
    values: dict[str, object] = {
        "model": "adapted",
        "value": 0.7,
        "against": "base",
        "difference": 0.1,
        "difference_low": 0.0444,
        "difference_high": 0.155,
        "p_value": 0.0004,
        "p_holm": 0.0123,
        "test": "mcnemar, exact",
        "model_only": 1_080,
        "against_only": 30,
        "minimum_detectable_difference": 0.056,
        "power": 0.8,
    }
    return make_record(**(values | changes))


def cells(table: str) -> list[list[str]]:
    lines = [line.strip("|").split("|") for line in table.splitlines()]
    return [[cell.strip() for cell in line] for line in (lines[0], *lines[2:])]


def test_each_model_says_whether_the_test_was_filtered_out() -> None:
    base = make_record(filtered="unknown")
    adapted = make_compared(filtered="not filtered")
    report = comparison_report(Comparison([base, adapted]))
    header, *lines = cells(comparison_table([base, adapted]))

    assert [line[header.index("filtered")] for line in lines] == ["unknown", "not filtered"]
    assert "Filtered: whether the files of the test are among those" in report
    assert "iltered" not in comparison_report(Comparison([make_record(), make_compared()]))


def test_every_model_has_a_line_with_what_it_differs_by() -> None:
    header, base, adapted = cells(comparison_table([make_record(), make_compared()]))
    assert dict(zip(header, adapted, strict=True)) == {
        "subject": "pubmedqa",
        "metric": "accuracy",
        "model": "adapted",
        "items": "500",
        "value": "0.700 [0.550, 0.650]",
        "difference": "+0.100 [+0.044, +0.155]",
        "p": "<0.001",
        "p (Holm)": "0.012",
        "only one right": "1,080 : 30",
        "detectable": "0.056",
    }
    assert base[header.index("value") :] == ["0.600 [0.550, 0.650]", "-", "-", "-", "-", "-"]


def test_seeds_and_groups_are_told_where_there_are_some() -> None:
    record = make_record(seed_values=[0.5, 0.6, 0.7], deviation=0.1, n_groups=80)
    header, line = cells(comparison_table([record]))
    assert line[header.index("seeds")] == "3, sd 0.100"
    assert line[header.index("items")] == "500 in 80"
    assert "difference" not in header


def test_what_is_not_known_is_a_dash() -> None:
    nan = math.nan
    record = make_compared(
        low=nan, high=nan, difference_low=nan, difference_high=nan, p_value=nan, p_holm=nan
    )
    header, line = cells(comparison_table([record]))
    assert line[header.index("value")] == "0.700 [-, -]"
    assert line[header.index("difference")] == "+0.100 [-, -]"
    assert "p" not in header


def test_large_figures_have_fewer_digits() -> None:
    assert number_style(make_record(metric="perplexity", value=8.0)) == ".2f"
    assert number_style(make_record(metric="bleu", value=31.0)) == ".2f"
    assert number_style(make_record(metric="bits_per_byte", value=1.0)) == ".3f"


def test_the_report_says_what_was_compared_and_what_was_left_out() -> None:
    found = Comparison([make_record(), make_compared()], ["notes is left out: not evaluated for x"])
    report = comparison_report(found)
    assert "95% intervals; differences are model minus base" in report
    assert "corrected for the 1 tests of this table" in report
    assert "with probability 80%" in report
    assert report.endswith("- notes is left out: not evaluated for x")
