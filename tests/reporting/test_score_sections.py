"""Held-out documents in a report."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from biomamba.evaluation.comparison import ComparisonSettings
from biomamba.metrics.measure import Bootstrap
from biomamba.reporting.inputs import read_inputs
from biomamba.reporting.score_sections import forgetting_section, perplexity_section
from biomamba.reporting.scores import ReportScores, report_scores
from biomamba.reporting.section import Picture, Table

WriteEvaluation = Callable[..., Path]

SETTINGS = ComparisonSettings(bootstrap=Bootstrap(num_resamples=50, seed=1))
BASE = [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
ADAPTED = [2.5, 2.25, 1.0, 1.5, 1.75, 1.875]


@pytest.fixture
def scores(write_evaluation: WriteEvaluation, tmp_path: Path) -> ReportScores:
    bits = {"base": {"web": BASE}, "adapted": {"web": ADAPTED}}
    return report_scores(read_inputs([write_evaluation(tmp_path / "a", bits)]).evaluations)


def test_figures_stand_with_their_paired_differences(scores: ReportScores) -> None:
    section = perplexity_section(scores, SETTINGS)
    table, picture = section.parts
    assert isinstance(table, Table)
    assert isinstance(picture, Picture)
    rows = list(csv.DictReader(table.csv().splitlines()))
    mine = next(r for r in rows if (r["metric"], r["model"]) == ("bits_per_byte", "adapted"))
    assert float(mine["difference"]) == pytest.approx(sum(ADAPTED) / 6 - 2.0)
    assert table.files[0].endswith("a/results.jsonl")


def test_forgetting_counts_documents_that_got_worse(scores: ReportScores) -> None:
    ledger, picture, extremes = forgetting_section(scores, SETTINGS, num_listed=2).parts
    assert isinstance(ledger, Table)
    assert isinstance(extremes, Table)
    assert isinstance(picture, Picture)
    # 2 of 6 changes (+0.5 +0.25 -1 -0.5 -0.25 -0.125) are above 0; the median is -0.1875.
    assert ledger.rows[0][:5] == ["web", "adapted", "6", "33.3%", "-0.188"]
    assert ledger.rows[0][6] == "-0.188"
    keys = [f"{number:016x}" for number in (1, 3, 2, 4)]
    assert extremes.rows == [
        ["web", "adapted", keys[0], "+0.500", keys[1], "-1.000"],
        ["web", "adapted", keys[2], "+0.250", keys[3], "-0.500"],
    ]
    rows = list(csv.DictReader(ledger.csv().splitlines()))
    assert [float(row["bits_per_byte_change"]) for row in rows] == pytest.approx(
        [value - 2.0 for value in ADAPTED]
    )


def test_another_reference_turns_the_sign(scores: ReportScores) -> None:
    settings = ComparisonSettings(reference="adapted", bootstrap=SETTINGS.bootstrap)
    ledger = forgetting_section(scores, settings, num_listed=1).parts[0]
    assert isinstance(ledger, Table)
    assert ledger.rows[0][:4] == ["web", "base", "6", "66.7%"]


def test_what_is_missing_is_said(write_evaluation: WriteEvaluation, tmp_path: Path) -> None:
    for section in (
        perplexity_section(ReportScores(), SETTINGS),
        forgetting_section(ReportScores(), SETTINGS, 1),
    ):
        assert "an evaluation with sources" in str(section.parts)
    folder = write_evaluation(tmp_path / "b", {"base": {"web": BASE}})
    alone = report_scores(read_inputs([folder]).evaluations)
    assert "One model only" in str(forgetting_section(alone, SETTINGS, 1).parts)
    assert isinstance(perplexity_section(alone, SETTINGS).parts[0], Table)
