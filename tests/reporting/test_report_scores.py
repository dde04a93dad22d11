"""Models of several evaluations, put together."""

from collections.abc import Callable
from pathlib import Path

import pytest

from biomamba.reporting.inputs import read_inputs
from biomamba.reporting.scores import ReportScores, report_scores, subjects_of
from biomamba.runtime.errors import DataError

WriteEvaluation = Callable[..., Path]


def read(*folders: Path) -> ReportScores:
    return report_scores(read_inputs(folders).evaluations)


def test_models_are_panels_by_the_sources_they_share(
    write_evaluation: WriteEvaluation, tmp_path: Path
) -> None:
    one = write_evaluation(tmp_path / "one", {"base": {"pubmed": 2.0, "web": 1.5}})
    two = write_evaluation(tmp_path / "two", {"adapted": {"pubmed": 1.0, "c4": 1.5}})
    found = read(one, two)

    told = [(list(panel), subjects_of(panel)) for panel in found.panels]
    assert told == [(["base", "adapted"], ["pubmed"]), (["base"], ["web"]), (["adapted"], ["c4"])]
    assert sorted(found.paths.values()) == ["none/adapted", "none/base"]


def test_other_questions_are_left_out_with_a_note(
    write_evaluation: WriteEvaluation, tmp_path: Path
) -> None:
    one = write_evaluation(tmp_path / "one", {"base": {"pubmed": 2.0}})
    two = write_evaluation(tmp_path / "two", {"adapted": {"pubmed": 1.0}}, seq_len=32)
    found = read(one, two)

    assert not found.panels
    assert "pubmed is left out" in found.notes[0]
    assert "seq_len is 64 and 32" in found.notes[0]


def test_one_checkpoint_with_two_figures_is_refused(
    write_evaluation: WriteEvaluation, tmp_path: Path
) -> None:
    one = write_evaluation(tmp_path / "one", {"base": {"pubmed": 2.0}})
    two = write_evaluation(tmp_path / "two", {"base": {"pubmed": 1.0}})
    with pytest.raises(DataError, match="scored in different ways"):
        read(one, two)


def test_nothing_was_scored() -> None:
    assert report_scores([]) == ReportScores(notes=[])
