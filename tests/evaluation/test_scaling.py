"""Fits of loss over tokens."""

import numpy as np
import pytest
from numpy.typing import NDArray

from biomamba.evaluation.scaling import fit_curve, fit_scaling
from biomamba.metrics.measure import Bootstrap, mean

TOKENS = np.array([1e6, 3e6, 1e7, 3e7, 1e8])


@pytest.mark.parametrize(
    ("floor", "coefficient", "exponent"), [(1.0, 100.0, 0.4), (0.5, 20.0, 0.2), (2.0, 3e4, 0.8)]
)
def test_an_exact_law_is_found(floor: float, coefficient: float, exponent: float) -> None:
    found = fit_curve(TOKENS, floor + coefficient / TOKENS**exponent)

    assert found.floor == pytest.approx(floor, rel=1e-3)
    assert found.coefficient == pytest.approx(coefficient, rel=1e-2)
    assert found.exponent == pytest.approx(exponent, rel=1e-3)
    assert not found.is_bound
    assert found.at(TOKENS) == pytest.approx(floor + coefficient / TOKENS**exponent, abs=1e-6)


@pytest.mark.parametrize(
    "losses", [np.full(5, 2.0), TOKENS**-0.1, 3 - 0.1 * np.log(TOKENS), 1 + TOKENS / 1e8]
)
def test_what_the_losses_do_not_tell_is_marked(losses: NDArray[np.float64]) -> None:
    assert fit_curve(TOKENS, losses).is_bound


def test_intervals_are_those_of_documents() -> None:
    rng = np.random.default_rng(1)
    # Documents differ in level only, by the same for every model: only the floor is uncertain.
    level = rng.normal(size=200)
    measures = [mean("loss", 2 + level + 100 / tokens**0.4) for tokens in TOKENS]
    units = [str(number) for number in range(200)]
    # The order of the runs does not matter.
    order = [3, 0, 4, 1, 2]
    found = fit_scaling(
        TOKENS[order].tolist(),
        [[measures[index]] for index in order],
        units,
        Bootstrap(num_resamples=100, seed=2),
    )

    assert list(found.tokens) == list(TOKENS)
    assert found.exponent.high - found.exponent.low < 1e-3
    width = found.floor.high - found.floor.low
    assert width == pytest.approx(2 * 1.96 * level.std() / np.sqrt(200), rel=0.25)
    assert found.floor.low < found.floor.value < found.floor.high
    assert found.residual < 1e-6


def test_more_scatter_of_seeds_widens_the_intervals() -> None:
    rng = np.random.default_rng(1)
    level, units = rng.normal(size=100), [str(number) for number in range(100)]
    bootstrap = Bootstrap(num_resamples=100, seed=2)

    def widths(scatter: float) -> list[float]:
        measures = [
            [mean("loss", 2 + level + 100 / t**0.4 + scatter * sign) for sign in (-1, 0, 1)]
            for t in TOKENS
        ]
        fit = fit_scaling(TOKENS.tolist(), measures, units, bootstrap)
        assert len(fit.losses) == 15
        assert fit.exponent.value == pytest.approx(0.4, rel=0.01)
        return [found.high - found.low for found in (fit.floor, fit.exponent, fit.per_doubling)]

    none, some, more = widths(0.0), widths(0.005), widths(0.02)
    assert all(a < b < c for a, b, c in zip(none[1:], some[1:], more[1:], strict=True))
    # Seeds that agree are as one seed.
    single = [[mean("loss", 2 + level + 100 / t**0.4)] for t in TOKENS]
    alone = fit_scaling(TOKENS.tolist(), single, units, bootstrap)
    assert none[2] == pytest.approx(alone.per_doubling.high - alone.per_doubling.low, abs=1e-9)


def test_the_change_per_doubling_is_that_of_a_straight_line() -> None:
    measures = [[mean("loss", np.full(5, 9 - 0.25 * np.log2(t)))] for t in TOKENS]
    fit = fit_scaling(TOKENS.tolist(), measures, list("abcde"), Bootstrap(num_resamples=20))
    assert fit.per_doubling.value == pytest.approx(-0.25)
    assert not fit.is_told  # a straight line has no floor


def test_three_runs_are_too_few() -> None:
    measures = [[mean("loss", np.ones(3))]] * 4
    with pytest.raises(ValueError, match="needs 4 different numbers of tokens"):
        fit_scaling([1.0, 2.0, 3.0, 3.0], measures, list("abc"), Bootstrap(num_resamples=2))
