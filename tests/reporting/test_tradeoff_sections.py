"""Trade-offs in a report."""

from collections.abc import Callable
from pathlib import Path

import pytest

from biomamba.metrics.interval import Bootstrap
from biomamba.reporting.report_inputs import read_inputs
from biomamba.reporting.report_scores import ReportScores, report_scores
from biomamba.reporting.section import Table
from biomamba.reporting.tradeoff_sections import frontier_section, scaling_section

WriteEvaluation = Callable[..., Path]
WriteRun = Callable[..., Path]

BOOTSTRAP = Bootstrap(num_resamples=20, seed=1)
TOKENS = (1_000, 4_000, 16_000, 64_000)


def test_the_domain_stands_against_the_mean_of_the_others(
    write_evaluation: WriteEvaluation, tmp_path: Path
) -> None:
    bits = {
        "base": {"pubmed": 2.0, "web": 1.0, "wiki": 2.0},
        "adapted": {"pubmed": 1.0, "web": 1.5, "wiki": 2.5},
        "worse": {"pubmed": 2.5, "web": 2.0, "wiki": 2.0},
    }
    scores = report_scores(read_inputs([write_evaluation(tmp_path / "a", bits)]).evaluations)
    table = frontier_section(scores, "pubmed").parts[1]
    assert isinstance(table, Table)
    assert table.rows == [
        ["base", "2.000", "1.500", "yes"],
        ["adapted", "1.000", "2.000", "yes"],
        ["worse", "2.500", "2.000", "no"],
    ]
    assert "the sources are pubmed, web, wiki" in str(frontier_section(scores, "c4").parts)
    assert "an evaluation with sources" in str(frontier_section(ReportScores(), "c4").parts)


def test_runs_that_differ_in_tokens_only_are_fitted(
    write_run: WriteRun, write_evaluation: WriteEvaluation, tmp_path: Path
) -> None:
    folders = [write_run(tmp_path / f"run{t}", tokens=t) for t in TOKENS]
    bits = {f"m{t}": {"web": 1 + 50 / t**0.5} for t in TOKENS}
    paths = {f"m{t}": str(tmp_path / f"run{t}" / "model") for t in TOKENS}
    folder = write_evaluation(tmp_path / "a", bits, paths)
    inputs = read_inputs([*folders, folder])
    scores = report_scores(inputs.evaluations)
    table = scaling_section(scores, inputs.runs, BOOTSTRAP).parts[1]
    assert isinstance(table, Table)
    (row,) = table.rows
    assert row[0] == "web"
    assert [float(cell.split()[0]) for cell in row[1:4]] == pytest.approx([1, 50, 0.5], rel=0.02)
    # With one run fewer, or another seed, three are left.
    told = str(scaling_section(scores, inputs.runs[1:], BOOTSTRAP).parts)
    assert "at least 4 training runs differ in max_tokens only (3 at most here)" in told
    config = folders[0] / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("seed: 3", "seed: 4"))
    assert "(3 at most here)" in str(scaling_section(scores, inputs.runs, BOOTSTRAP).parts)


def test_without_runs_the_section_says_what_is_missing() -> None:
    assert "(none here)" in str(scaling_section(ReportScores(), [], BOOTSTRAP).parts)
