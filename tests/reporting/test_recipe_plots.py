"""Recipes beside each other as pictures."""

import math
from collections.abc import Callable
from pathlib import Path

from biomamba.evaluation.comparison import ComparisonSettings, compare
from biomamba.metrics.measure import Bootstrap
from biomamba.reporting.inputs import read_inputs
from biomamba.reporting.plots import arm_of, recipes_plot
from biomamba.reporting.scores import report_scores


def test_recipes_are_drawn(write_evaluation: Callable[..., Path], tmp_path: Path) -> None:
    bits = {
        "base": {"web": [1.0, 2.0, 1.5, 1.2, 2.0, 1.8], "pubmed": 2.0},
        "more": {"web": 2.0, "pubmed": [1.0, 2.0, 1.5, 1.2, 2.0, 1.8]},
    }
    scores = report_scores(read_inputs([write_evaluation(tmp_path / "a", bits)]).evaluations)
    settings = ComparisonSettings(metrics=["bits_per_byte"], bootstrap=Bootstrap(num_resamples=50))
    records = compare(scores.models, settings).records
    assert recipes_plot(records, "base").startswith(b"\x89PNG")


def test_arms_end_where_bounds_are_not_known() -> None:
    assert arm_of(2.0, 1.5) == 0.5
    assert arm_of(1.0, 2.0) == arm_of(1.0, math.nan) == 0.0
