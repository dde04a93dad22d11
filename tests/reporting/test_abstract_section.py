"""The main figures of a report."""

from collections.abc import Callable
from pathlib import Path

from biomamba.evaluation.comparison import ComparisonSettings
from biomamba.metrics.measure import Bootstrap
from biomamba.reporting.inputs import read_inputs
from biomamba.reporting.paper import abstract_section
from biomamba.reporting.scores import report_scores
from biomamba.reporting.section import Section

SETTINGS = ComparisonSettings(bootstrap=Bootstrap(num_resamples=200, seed=1))


def section(folders: list[Path], settings: ComparisonSettings = SETTINGS) -> Section:
    inputs = read_inputs(folders)
    scores = report_scores(inputs.evaluations)
    return abstract_section(scores, inputs.evaluations, "pubmed", settings)


def test_domain_general_text_and_tasks(
    write_evaluation: Callable[..., Path], write_tasks: Callable[[Path], Path], tmp_path: Path
) -> None:
    bits = {
        "base": {"pubmed": 2.0, "web": 1.0, "wiki": 2.0},
        "more": {"pubmed": 1.5, "web": 1.25, "wiki": 2.25},
        "worse": {"pubmed": 2.5, "web": 2.0, "wiki": 2.5},
    }
    scores, tasks = write_evaluation(tmp_path / "a", bits), write_tasks(tmp_path / "t")
    domain, general, front, quiz = (str(part) for part in section([scores, tasks]).parts)
    assert "pubmed: 1.500 bits per byte for more, the lowest of 2 models beside it" in domain
    assert "against 2.000 for base: -0.500, p = 0.031, 6 documents." in domain
    assert "(plain mean of web and wiki): 1.750 bits per byte for more" in general
    assert "against 1.500 for base: +0.250" in general
    assert front.endswith("are 2 of 3 models: base, more.")
    assert quiz.startswith("quiz: accuracy 0.625 [0.500, 0.750] for adapted, 40 items")
    assert "the most frequent answer alone: 0.500" in quiz


def test_a_reference_may_be_chosen(write_evaluation: Callable[..., Path], tmp_path: Path) -> None:
    bits = {"base": {"pubmed": 2.0}, "more": {"pubmed": 1.5}}
    settings = ComparisonSettings(reference="more", bootstrap=SETTINGS.bootstrap)
    (domain,) = section([write_evaluation(tmp_path / "a", bits)], settings).parts
    assert "2.000 bits per byte for base, against 1.500 for more: +0.500" in str(domain)


def test_without_figures_it_says_what_is_missing() -> None:
    nothing = abstract_section(report_scores([]), [], "pubmed", SETTINGS)
    assert "put their main figures here" in str(nothing.parts)
