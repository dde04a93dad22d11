"""Trade-offs as pictures."""

import numpy as np
import pytest

from biomamba.evaluation.scaling import fit_scaling
from biomamba.metrics.interval import Bootstrap
from biomamba.metrics.measure import mean
from biomamba.reporting.tradeoff_plots import Place, frontier_plot, non_dominated, scaling_plot

PLACES = [Place("a", 1.0, 3.0), Place("b", 2.0, 2.0), Place("c", 2.0, 3.0), Place("d", 3.0, 1.0)]


def test_only_what_no_other_beats_is_kept() -> None:
    assert [place.model for place in non_dominated(PLACES)] == ["a", "b", "d"]
    twins = [Place("x", 1.0, 1.0), Place("y", 1.0, 1.0)]
    assert non_dominated(twins) == twins


@pytest.mark.parametrize("places", [PLACES, PLACES[:1]])
def test_a_frontier_is_drawn(places: list[Place]) -> None:
    assert frontier_plot(places, "pubmed", "web").startswith(b"\x89PNG")


def test_a_fit_is_drawn() -> None:
    tokens = [1e6, 2e6, 4e6, 8e6]
    measures = [mean("m", np.full(5, 1 + 100 / t**0.5)) for t in tokens]
    fit = fit_scaling(tokens, measures, list("abcde"), Bootstrap(num_resamples=20))
    assert scaling_plot({"web": fit}).startswith(b"\x89PNG")
