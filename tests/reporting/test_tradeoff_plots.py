"""Trade-offs as pictures."""

import numpy as np
import pytest

from biomamba.evaluation.scaling import fit_scaling
from biomamba.metrics.measure import Bootstrap, Interval, mean
from biomamba.reporting.plots import (
    Place,
    frontier_plot,
    labels_of,
    non_dominated,
    scaling_plot,
)


def place(name: str, domain: float, general: float, seeds: int = 1) -> Place:
    here, there = (Interval(value, value - 0.1, value + 0.1) for value in (domain, general))
    return Place(name, here, there, [(domain, general)] * seeds)


PLACES = [place("a", 1, 3, 3), place("b", 2, 2), place("c", 2, 3), place("d", 3, 1)]


def test_only_what_no_other_beats_is_kept() -> None:
    assert [found.model for found in non_dominated(PLACES)] == ["a", "b", "d"]
    twins = [place("x", 1.0, 1.0), place("y", 1.0, 1.0)]
    assert non_dominated(twins) == twins


def test_numbers_of_models_at_one_place_share_a_label() -> None:
    places = [*PLACES, place("a again", 1.03, 3.03), place("beside", 1.03, 2.9)]

    labels = labels_of(places)

    assert labels == {(1, 3): "1, 5", (2, 2): "2", (2, 3): "3", (3, 1): "4", (1.03, 2.9): "6"}


@pytest.mark.parametrize("places", [PLACES, PLACES[:1], PLACES * 2])
def test_a_frontier_is_drawn(places: list[Place]) -> None:
    assert frontier_plot(places, "pubmed", "web").startswith(b"\x89PNG")


def test_a_fit_is_drawn() -> None:
    tokens = [1e6, 2e6, 4e6, 8e6]
    measures = [[mean("m", np.full(5, 1 + 100 / t**0.5))] for t in tokens]
    fit = fit_scaling(tokens, measures, list("abcde"), Bootstrap(num_resamples=20))
    assert scaling_plot({"web": fit}).startswith(b"\x89PNG")
