"""One recipe trained with several seeds."""

import math

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_ind

from biomamba.metrics.classification import calibration_error
from biomamba.metrics.measure import NO_SCATTER, NOT_SMOOTH, ONE_GROUP, Bootstrap, Measure, mean
from biomamba.metrics.significance import (
    difference_over_seeds,
    interval_over_seeds,
    over_seeds,
    paired_difference,
)

SMALL = Bootstrap(num_resamples=2_000)


def names(count: int) -> list[str]:
    return [f"item {index:04d}" for index in range(count)]


def make_seeds(seeds: np.ndarray, items: np.ndarray) -> list[Measure]:
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


def test_the_t_interval_covers_as_often_as_its_level_says() -> None:
    rng = np.random.default_rng(0)
    found = [over_seeds(list(rng.normal(3, 2, size=3))) for _ in range(1_000)]
    covered = sum(each.low <= 3 <= each.high for each in found)
    assert 925 <= covered <= 975  # Binomial(1,000, 0.95) has deviation 6.9


def test_variances_of_seeds_and_of_items_add_up() -> None:
    rng = np.random.default_rng(1)
    shifts, items = rng.normal(0, 0.5, size=6), rng.normal(0, 3, size=200)
    found, _ = interval_over_seeds(make_seeds(shifts, items), names(200), SMALL)
    of_seeds, of_items = shifts.var(ddof=1) / 6, items.var() / 200
    variance = of_seeds + of_items
    freedom = variance**2 / (of_seeds**2 / 5 + of_items**2 / 199)
    expected = t.ppf(0.975, freedom) * math.sqrt(variance)
    # 2,000 resamples know a variance to about 3 %.
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.05)
    assert found.value == pytest.approx(items.mean() + shifts.mean())
    assert (found.high + found.low) / 2 == pytest.approx(found.value)


def test_items_without_scatter_leave_the_t_interval_of_the_seeds() -> None:
    shifts = np.array([0.0, 1.0, 5.0])
    found, _ = interval_over_seeds(make_seeds(shifts, np.ones(100)), names(100), SMALL)
    alone = over_seeds(list(shifts + 1))
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))


def test_seeds_without_scatter_leave_the_interval_of_the_items() -> None:
    items = np.random.default_rng(2).normal(size=400)
    found, _ = interval_over_seeds(make_seeds(np.zeros(3), items), names(400), SMALL)
    assert (found.high - found.low) / 2 == pytest.approx(1.966 * items.std() / 20, rel=0.05)


def test_the_interval_covers_with_three_seeds_as_often_as_its_level_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(300):
        seeds = make_seeds(rng.normal(0, 0.3, size=3), rng.normal(0, 1, size=40))
        found, _ = interval_over_seeds(seeds, names(40), Bootstrap(150, 0.9, seed=trial))
        covered += found.low <= 0 <= found.high
    # Binomial(300, 0.9) has deviation 5.2.
    assert 255 <= covered <= 290


def test_what_does_not_vary_and_one_group_have_no_bounds() -> None:
    alike, of_alike = interval_over_seeds([mean("x", np.zeros(9))] * 3, names(9), SMALL)
    alone, of_alone = interval_over_seeds(make_seeds(np.arange(3.0), np.ones(3)), ["a"] * 3, SMALL)
    assert (alike.value, alone.value) == (0.0, 2.0)
    assert (of_alike, of_alone) == (NO_SCATTER, ONE_GROUP)
    assert all(math.isnan(bound) for each in (alike, alone) for bound in (each.low, each.high))


def test_recipes_of_one_seed_differ_as_their_models_do() -> None:
    rng = np.random.default_rng(5)
    a, b = (mean("score", rng.normal(shift, 1, size=200)) for shift in (1, 0))
    found = difference_over_seeds([a], [b], names(200), SMALL)
    paired = paired_difference(a, b, names(200), SMALL)
    assert found.value == pytest.approx(paired.value)
    assert found.standard_error == pytest.approx(paired.standard_error)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high), rel=0.05)


def test_seeds_without_items_that_scatter_are_compared_by_the_test_of_welch() -> None:
    a, b = [0.0, 0.4, 0.5, 0.9], [1.0, 1.1, 0.7]
    recipes = [make_seeds(np.array(shifts), np.zeros(50)) for shifts in (a, b)]
    found = difference_over_seeds(*recipes, names(50), SMALL)
    theirs = ttest_ind(a, b, equal_var=False)
    bounds = theirs.confidence_interval(0.95)
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))


def test_what_recipes_share_does_not_widen_their_difference() -> None:
    rng = np.random.default_rng(6)
    items = rng.normal(0, 100, size=100)
    base = make_seeds(np.zeros(3), items)
    better = make_seeds(np.array([0.9, 1.0, 1.1]), items)
    found = difference_over_seeds(better, base, names(100), SMALL)
    assert found.value == pytest.approx(1.0)
    assert found.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert found.low < 1 < found.high
    assert found.p_value < 0.01


def test_recipes_that_agree_and_one_group() -> None:
    seeds = make_seeds(np.zeros(2), np.arange(5.0))
    same = difference_over_seeds(seeds, seeds, names(5), SMALL)
    assert (same.value, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    more = make_seeds(np.ones(2), np.arange(5.0))
    for groups in (["a"] * 5, names(5)):  # one group; five that all differ by 1
        found = difference_over_seeds(more, seeds, groups, SMALL)
        assert found.value == 1.0
        assert all(math.isnan(x) for x in (found.low, found.high, found.p_value))


def test_rounding_is_no_scatter() -> None:
    third = mean("x", np.full(7, 1 / 3))  # three of them have a mean that is rounded
    hits = mean("x", np.arange(120) % 8 < 3)
    for one, groups in ((third, names(7)), (hits, names(120))):
        found = difference_over_seeds([one] * 3, [one], groups, SMALL)
        assert (found.value, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
        assert found.standard_error == 0.0
    assert math.isnan(interval_over_seeds([third] * 3, names(7), SMALL)[0].low)


def test_seeds_of_other_items_and_none_are_refused() -> None:
    seeds = [mean("score", np.ones(3)), mean("score", np.ones(4))]
    with pytest.raises(ValueError, match="4 items and 3 names"):
        interval_over_seeds(seeds, names(3), SMALL)
    with pytest.raises(ValueError, match="at least one seed"):
        difference_over_seeds(seeds[:1], [], names(3), SMALL)


def test_a_figure_without_an_interval_has_none_over_seeds() -> None:
    seeds = [
        calibration_error(["a", "b"] * 20, [{"a": p, "b": 1 - p}] * 40) for p in (0.6, 0.7, 0.8)
    ]
    alone, method = interval_over_seeds(seeds, names(40), SMALL)
    found = difference_over_seeds(seeds, seeds[:1], names(40), SMALL)
    # Half of the answers are right: |0.5 - p|.
    assert (alone.value, found.value) == pytest.approx((0.2, 0.1))
    assert method == found.test == NOT_SMOOTH
    bounds = (alone.low, alone.high, found.low, found.high, found.p_value, found.standard_error)
    assert all(map(math.isnan, bounds))


def test_the_seed_of_a_recipe_with_one_scatters_as_those_of_the_other() -> None:
    shifts = np.array([0.1, 0.4, 0.9])
    several = make_seeds(shifts, np.zeros(50))
    found = difference_over_seeds(
        several, make_seeds(np.array([0.0]), np.zeros(50)), names(50), SMALL
    )
    assert found.standard_error == pytest.approx(shifts.std(ddof=1) * math.sqrt(1 / 3 + 1))
    assert found.freedom == pytest.approx(2)
