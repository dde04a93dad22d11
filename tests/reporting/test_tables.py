"""Tables of records."""

from dataclasses import replace

from biomamba.data.datamodule import Exposure
from biomamba.evaluation.records import ResultRecord
from biomamba.metrics.measure import Interval
from biomamba.reporting.tables import (
    exposure_table,
    interval_cell,
    markdown_table,
    perplexity_table,
    positions_table,
)


def _record(model: str, metric: str, value: float) -> ResultRecord:
    return ResultRecord(
        model=model,
        source="pubmed",
        split="test",
        metric=metric,
        unit="",
        value=value,
        low=value - 0.5,
        high=value + 0.5,
        level=0.95,
        num_documents=12,
        num_tokens=3_456,
        num_bytes=9_999,
        provenance={},
    )


def test_markdown_table_is_aligned() -> None:
    assert markdown_table(["a", "long"], [["xyz1", "2"]]).splitlines() == [
        "| a    | long |",
        "|------|-----:|",
        "| xyz1 |    2 |",
    ]


def test_exposure_table_tells_of_packing_and_repetition() -> None:
    _, _, row = exposure_table(
        {"web": Exposure(1_200, 34_567, 6, 8, 0.0951, 400, 1.5, 34_567)}
    ).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["web", "1,200", "34,567", "6", "8", "9.5%", "400", "1.50"]


def test_positions_have_a_table_of_their_own() -> None:
    whole = [_record(model, "perplexity", 20.0) for model in ("base", "adapted")]
    whole += [_record(model, "bits_per_byte", 2.0) for model in ("base", "adapted")]
    placed = [
        replace(r, value=r.value + begin, first_position=begin, end_position=begin + 64)
        for r in whole[:2]
        for begin in (0, 64)
    ]
    lines = positions_table([*whole, *placed]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    assert cells[0] == [
        "source", "positions", "documents", "tokens", "perplexity base", "perplexity adapted",
    ]  # fmt: skip
    assert [row[:4] for row in cells[2:]] == [
        ["pubmed", "0 to 63", "12", "3,456"],
        ["pubmed", "64 to 127", "12", "3,456"],
    ]
    assert [row[4] for row in cells[2:]] == ["20.00 [19.50, 20.50]", "84.00 [19.50, 20.50]"]
    assert perplexity_table([*whole, *placed]) == perplexity_table(whole)


def test_perplexity_table_puts_models_side_by_side() -> None:
    records = [
        _record("base", "perplexity", 20.0),
        _record("base", "bits_per_byte", 2.0),
        _record("adapted", "perplexity", 15.0),
        _record("adapted", "bits_per_byte", 1.5),
        _record("adapted", "perplexity_change", -0.25),
    ]
    header, _, row = perplexity_table(records).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert [cell.strip() for cell in header.strip("|").split("|")][3:5] == [
        "perplexity base",
        "perplexity adapted",
    ]
    assert cells == [
        "pubmed",
        "12",
        "3,456",
        "20.00 [19.50, 20.50]",
        "15.00 [14.50, 15.50]",
        "2.000 [1.500, 2.500]",
        "1.500 [1.000, 2.000]",
        "-25.0% [-75.0%, +25.0%]",
    ]


def test_perplexity_table_without_a_baseline_has_no_change() -> None:
    records = [_record("base", "perplexity", 20.0), _record("base", "bits_per_byte", 2.0)]
    assert "change" not in perplexity_table(records)


def test_a_figure_without_bounds_stands_alone() -> None:
    nan = float("nan")
    assert interval_cell(Interval(1.25, 1.0, 1.5), ".2f") == "1.25 [1.00, 1.50]"
    assert interval_cell(Interval(1.25, nan, nan), ".2f") == "1.25"
