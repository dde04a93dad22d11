"""Figures of ours beside those of a paper."""

from collections.abc import Callable
from pathlib import Path

import pytest

from biomamba.metrics.measure import Bootstrap
from biomamba.reporting.groups import run_groups
from biomamba.reporting.inputs import read_inputs
from biomamba.reporting.paper import Candidate, candidates
from biomamba.reporting.scores import report_scores

BOOTSTRAP = Bootstrap(num_resamples=100, seed=1)


def found(folders: list[Path], subject: str, metric: str) -> list[Candidate]:
    inputs = read_inputs(folders)
    scores = report_scores(inputs.evaluations, run_groups(inputs.runs))
    return candidates(subject, metric, scores, inputs.evaluations, BOOTSTRAP)


def test_documents_of_a_model_and_its_run(
    write_run: Callable[..., Path], write_evaluation: Callable[..., Path], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    paths = {"adapted": str(run / "model")}
    bits = {"base": {"web": 2.0}, "adapted": {"web": 1.0}}
    folder = write_evaluation(tmp_path / "e", bits, paths)
    base, adapted = found([run, folder], "web", "perplexity")
    # 1 bit a byte and 2 bytes a token: 2 bits a token.
    assert adapted.interval.value == pytest.approx(4.0)
    assert (adapted.shape, adapted.facts["tokens"], adapted.num_seeds) == ((2, 16), 2_000.0, 1)
    assert adapted.facts["test_set"] == "test split of web, 6 documents"
    assert adapted.provenance["config_sha256"] == "c" * 64
    assert (base.shape, base.group, base.filtered) == (None, None, None)
    assert found([folder], "pubmed", "perplexity") == []


def test_answers_of_a_task(write_tasks: Callable[[Path], Path], tmp_path: Path) -> None:
    (only,) = found([write_tasks(tmp_path / "t")], "quiz", "accuracy")
    assert (only.interval.value, only.interval.low, only.interval.high) == (0.625, 0.5, 0.75)
    assert only.facts["num_items"] == 40
    assert only.facts["test_set"] == "quiz-2way, test split"
    assert only.facts["answers"] == "likelihood"
    assert only.filtered == "unknown"
