"""Exponents, parts and crossings of times that are known."""

import math

import numpy as np
import pytest
from scipy import stats

from biomamba.timing.records import crossings, fit_growth

LENGTHS = [512, 1_024, 2_048, 4_096, 8_192, 16_384]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.37, 2.0, 3.0])
@pytest.mark.parametrize("scale", [1e-7, 1.0, 3e4])
def test_the_exponent_of_a_power_is_exact(exponent: float, scale: float) -> None:
    found = fit_growth(LENGTHS, [scale * n**exponent for n in LENGTHS])

    assert found.low is not None
    assert found.high is not None
    assert found.exponent == pytest.approx(exponent, abs=1e-9)
    assert found.low <= found.high
    assert found.high - found.low == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("fixed", "linear", "quadratic"),
    [(0.0, 2e-4, 0.0), (0.0, 1e-4, 3e-8), (0.2, 1e-4, 0.0), (0.05, 2e-4, 1e-8), (1.0, 0.0, 0.0)],
)
def test_parts_of_a_sum_are_found(fixed: float, linear: float, quadratic: float) -> None:
    times = [fixed + linear * n + quadratic * n**2 for n in LENGTHS]
    parts = fit_growth(LENGTHS, times).parts

    assert parts is not None
    assert parts.fixed == pytest.approx(fixed, abs=1e-9)
    assert parts.linear == pytest.approx(linear, abs=1e-12)
    assert parts.quadratic == pytest.approx(quadratic, abs=1e-16)
    assert parts.worst_error < 1e-9
    share = quadratic * 16_384**2 / times[-1]
    assert parts.quadratic_share(16_384) == pytest.approx(share, abs=1e-9)


def test_no_part_is_negative() -> None:
    parts = fit_growth(LENGTHS, [1e-3 * math.sqrt(n) for n in LENGTHS]).parts

    assert parts is not None
    assert min(parts.fixed, parts.linear, parts.quadratic) >= 0
    assert parts.quadratic == 0
    assert parts.worst_error > 0.05


def test_a_bend_widens_the_interval_and_short_lengths_hide_the_square() -> None:
    """1e-4 n + 1e-9 n^2 looks linear up to 16k, though it is not: its parts say so."""
    times = [1e-4 * n + 1e-8 * n**2 for n in LENGTHS]
    found = fit_growth(LENGTHS, times)

    assert found.parts is not None
    assert found.exponent < 1.5
    assert found.parts.quadratic_share(16_384) > 0.6
    straight = fit_growth(LENGTHS, [1e-4 * n for n in LENGTHS])
    assert found.high is not None
    assert found.low is not None
    assert straight.high is not None
    assert straight.low is not None
    assert found.high - found.low > straight.high - straight.low + 0.05


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    num_trials, hits = 400, 0
    for _ in range(num_trials):
        noise = np.exp(draw.normal(0, 0.1, len(LENGTHS)))
        found = fit_growth(LENGTHS, [float(n * e) for n, e in zip(LENGTHS, noise, strict=True)])
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1 <= found.high

    assert stats.binomtest(hits, num_trials, 0.95).pvalue > 0.001


def test_two_lengths_have_a_slope_and_nothing_more() -> None:
    found = fit_growth([1, 10], [1.0, 100.0])

    assert found.exponent == pytest.approx(2)
    assert (found.low, found.high, found.parts) == (None, None, None)


def test_three_lengths_have_an_interval_and_no_parts_which_would_meet_any_three_points() -> None:
    found = fit_growth([1, 10, 100], [1.0, 200.0, 300.0])

    assert found.low is not None
    assert found.low < found.exponent
    assert found.parts is None


@pytest.mark.parametrize(
    ("lengths", "seconds"), [([8], [1.0]), ([8, 8], [1.0, 1.0]), ([8, 9], [0.0, 1.0])]
)
def test_what_has_no_growth_is_refused(lengths: list[int], seconds: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two lengths"):
        fit_growth(lengths, seconds)


def test_crossings_of_powers_are_exact() -> None:
    """n / 1,000 meets (n / 1,000)^2 at 1,000."""
    ours, theirs = [n / 1_000 for n in LENGTHS], [(n / 1_000) ** 2 for n in LENGTHS]

    assert crossings(LENGTHS, ours, theirs) == [pytest.approx(1_000)]
    assert crossings(LENGTHS, theirs, ours) == [pytest.approx(1_000)]
    assert crossings(LENGTHS[1:], ours[1:], theirs[1:]) == []
