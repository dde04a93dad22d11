"""One recipe trained with several seeds."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from biomamba.metrics.interval import Bootstrap
from biomamba.metrics.measure import Measure, mean
from biomamba.metrics.paired import paired_difference
from biomamba.metrics.seeds import (
    difference_over_seeds,
    hierarchical_interval,
    hierarchical_values,
    over_seeds,
)

SMALL = Bootstrap(num_resamples=2_000)


def names(count: int) -> list[str]:
    return [f"item {index:04d}" for index in range(count)]


def make_seeds(rng: np.random.Generator, seeds: np.ndarray, items: np.ndarray) -> list[Measure]:
    """Return the mean of items with one shift per seed."""
    return [mean("score", items + shift) for shift in seeds]


def test_the_summary_is_that_of_the_t_test_of_scipy() -> None:
    values = [0.61, 0.85, 0.57, 0.71]
    found = over_seeds(values, 0.9)
    theirs = ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert found.num_seeds == 4


def test_one_seed_tells_nothing_of_others() -> None:
    found = over_seeds([0.7])
    assert (found.mean, found.num_seeds) == (0.7, 1)
    assert all(math.isnan(value) for value in (found.deviation, found.low, found.high))


def test_no_seeds_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        over_seeds([])
    with pytest.raises(ValueError, match="at least two"):
        hierarchical_interval([mean("score", np.ones(3))], names(3), SMALL)


def test_the_t_interval_covers_as_often_as_its_level_says() -> None:
    rng = np.random.default_rng(0)
    found = [over_seeds(list(rng.normal(3, 2, size=3))) for _ in range(1_000)]
    covered = sum(each.low <= 3 <= each.high for each in found)
    assert 925 <= covered <= 975  # Binomial(1,000, 0.95) has deviation 6.9


def test_variance_of_seeds_and_of_items_add_up() -> None:
    rng = np.random.default_rng(1)
    shifts, items = rng.normal(0, 0.5, size=6), rng.normal(0, 3, size=200)
    values = hierarchical_values(make_seeds(rng, shifts, items), names(200), SMALL)
    expected = shifts.var(ddof=1) / 6 + items.var() / 200
    # 2,000 resamples know a variance to about 3 %.
    assert values.var() == pytest.approx(expected, rel=0.12)


def test_equal_seeds_leave_the_interval_of_the_items_and_equal_items_that_of_the_seeds() -> None:
    rng = np.random.default_rng(2)
    items = rng.normal(size=100)
    same = hierarchical_values(make_seeds(rng, np.zeros(3), items), names(100), SMALL)
    assert same.std() == pytest.approx(items.std() / 10, rel=0.08)
    apart = hierarchical_values(
        make_seeds(rng, np.array([0.0, 1.0, 5.0]), np.ones(100)), names(100), SMALL
    )
    # Two of three are drawn: means of pairs of 1, 2 and 6.
    assert set(np.round(apart, 6)) <= {1.0, 1.5, 2.0, 3.5, 4.0, 6.0}


def test_the_interval_encloses_the_mean_over_seeds() -> None:
    rng = np.random.default_rng(3)
    seeds = make_seeds(rng, rng.normal(size=4), rng.normal(size=50))
    found = hierarchical_interval(seeds, names(50), SMALL)
    assert found.value == pytest.approx(np.mean([seed.value for seed in seeds]))
    assert found.low < found.value < found.high


def test_seeds_and_items_that_are_all_alike_have_no_bounds() -> None:
    found = hierarchical_interval([mean("x", np.zeros(9))] * 3, names(9), SMALL)
    assert found.value == 0.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_streams_draw_the_same_items_and_other_seeds() -> None:
    rng = np.random.default_rng(4)
    items = rng.normal(size=50)
    alike = make_seeds(rng, np.zeros(3), items)
    one, other = (hierarchical_values(alike, names(50), SMALL, stream) for stream in (0, 1))
    assert np.allclose(one, other)
    unlike = make_seeds(rng, np.array([0.0, 1.0, 2.0]), np.zeros(50))
    one, other = (hierarchical_values(unlike, names(50), SMALL, stream) for stream in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1  # 2,000 draws: deviation 0.022


def test_seeds_of_other_items_are_refused() -> None:
    seeds = [mean("score", np.ones(3)), mean("score", np.ones(4))]
    with pytest.raises(ValueError, match="4 items and 3 names"):
        hierarchical_values(seeds, names(3), SMALL)


def test_recipes_of_one_seed_differ_as_their_models_do() -> None:
    rng = np.random.default_rng(5)
    a, b = (mean("score", rng.normal(shift, 1, size=60)) for shift in (1, 0))
    found = difference_over_seeds([a], [b], names(60), SMALL)
    paired = paired_difference(a, b, names(60), SMALL)
    assert (found.value, found.low, found.high) == (paired.value, paired.low, paired.high)
    assert found.standard_error == paired.standard_error


def test_seeds_that_scatter_widen_the_difference_and_raise_the_p_value() -> None:
    rng = np.random.default_rng(6)
    items = rng.normal(size=100)
    base = [mean("score", items)] * 4
    gain = items + rng.normal(0.2, 0.1, size=100)
    steady = difference_over_seeds(make_seeds(rng, np.zeros(4), gain), base, names(100), SMALL)
    shifts = np.array([-0.6, 0.6, -0.3, 0.3])
    loose = difference_over_seeds(make_seeds(rng, shifts, gain), base, names(100), SMALL)
    assert steady.value == pytest.approx(loose.value)
    assert steady.p_value == 2 / 2_001  # no resample lies on the other side of 0
    assert loose.p_value > 0.1
    assert loose.low < 0 < steady.low
    expected = shifts.var(ddof=1) / 4 + (gain - items).var() / 100
    assert loose.standard_error**2 == pytest.approx(expected, rel=0.12)


def test_one_group_tells_nothing_of_the_difference_of_recipes() -> None:
    found = difference_over_seeds(
        [mean("x", np.ones(3))], [mean("x", np.zeros(3))], ["a"] * 3, SMALL
    )
    assert found.value == 1.0
    assert all(math.isnan(value) for value in (found.low, found.high, found.p_value))
