"""Trade-offs in a report."""

from collections.abc import Callable
from pathlib import Path

from biomamba.metrics.measure import Bootstrap
from biomamba.reporting.inputs import read_inputs
from biomamba.reporting.score_sections import frontier_section
from biomamba.reporting.scores import ReportScores, report_scores
from biomamba.reporting.section import Table

WriteEvaluation = Callable[..., Path]

BOOTSTRAP = Bootstrap(num_resamples=20, seed=1)


def test_the_domain_stands_against_the_mean_of_the_others(
    write_evaluation: WriteEvaluation, tmp_path: Path
) -> None:
    bits = {
        "base": {"pubmed": 2.0, "web": 1.0, "wiki": 2.0},
        "adapted": {"pubmed": 1.0, "web": 1.5, "wiki": 2.5},
        "worse": {"pubmed": 2.5, "web": 2.0, "wiki": 2.0},
    }
    scores = report_scores(read_inputs([write_evaluation(tmp_path / "a", bits)]).evaluations)
    table = frontier_section(scores, "pubmed", BOOTSTRAP).parts[1]
    assert isinstance(table, Table)
    assert table.header[1:3] == ["bits/byte pubmed", "mean bits/byte of web and wiki"]
    assert [[cell.split()[0] for cell in row] for row in table.rows] == [
        ["base", "2.000", "1.500", "yes"],
        ["adapted", "1.000", "2.000", "yes"],
        ["worse", "2.500", "2.000", "no"],
    ]
    missing = frontier_section(scores, "c4", BOOTSTRAP)
    assert "the sources are pubmed, web, wiki" in str(missing.parts)
    nothing = frontier_section(ReportScores(), "c4", BOOTSTRAP)
    assert "an evaluation with sources" in str(nothing.parts)


def test_what_is_beaten_by_means_only_is_told(
    write_evaluation: WriteEvaluation, tmp_path: Path
) -> None:
    wide = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]
    bits = {
        "a": {"pubmed": wide, "web": wide},
        "b": {"pubmed": [b + 0.1 for b in wide], "web": wide},
        "c": {"pubmed": [b + 9 for b in wide], "web": wide},
    }
    scores = report_scores(read_inputs([write_evaluation(tmp_path / "a", bits)]).evaluations)
    _, table, note = frontier_section(scores, "pubmed", BOOTSTRAP).parts
    assert isinstance(table, Table)
    assert [row[-1] for row in table.rows] == ["-", "overlaps a", "-"]
    assert "overlap on both axes: b." in str(note)
