"""Intervals of figures whose items come in groups."""

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from biomamba.metrics.classification import macro_f1
from biomamba.metrics.measure import (
    BOOTSTRAP,
    NO_SCATTER,
    NOT_FINITE,
    ONE_GROUP,
    TOO_FEW,
    WILSON,
    Bootstrap,
    Measure,
    group_columns,
    interval_of,
    mean,
    proportion,
    ratio,
    wilson_interval,
)

SMALL = Bootstrap(num_resamples=200)


def names(count: int) -> list[str]:
    return [f"item {index:04d}" for index in range(count)]


def test_columns_of_a_group_are_added_and_the_value_stays() -> None:
    measure = mean("score", np.array([1.0, 2.0, 4.0, 8.0]))
    grouped = group_columns(measure, ["b", "a", "b", "c"])
    assert grouped.columns.tolist() == [[2, 1], [5, 2], [8, 1]]  # a, b, c
    assert grouped.value == measure.value


def test_groups_of_one_item_keep_a_proportion_and_larger_ones_do_not() -> None:
    measure = proportion("accuracy", np.array([True, False, True]))
    assert group_columns(measure, names(3)).is_proportion
    assert not group_columns(measure, ["a", "a", "b"]).is_proportion


def test_another_number_of_names_is_refused() -> None:
    with pytest.raises(ValueError, match="accuracy has 2 items and 3 names of groups"):
        group_columns(proportion("accuracy", np.array([True, False])), names(3))


@pytest.mark.parametrize(("hits", "num_items"), [(0, 1), (0, 30), (7, 9), (276, 500), (40, 40)])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_wilson_is_the_interval_of_scipy(hits: int, num_items: int, level: float) -> None:
    ours = wilson_interval(hits, num_items, level)
    theirs = binomtest(hits, num_items).proportion_ci(level, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.value == hits / num_items


def test_wilson_holds_what_the_score_test_does_not_refuse() -> None:
    found = wilson_interval(13, 60, 0.9)
    for bound in (found.low, found.high):
        z = (13 / 60 - bound) / math.sqrt(bound * (1 - bound) / 60)
        assert abs(z) == pytest.approx(1.6448536, rel=1e-6)


def test_wilson_encloses_the_value_at_the_ends() -> None:
    for num_items in range(1, 60):
        none, every = (wilson_interval(hits, num_items, 0.95) for hits in (0, num_items))
        assert none.low == 0.0 < none.high
        assert every.high == 1.0 > every.low


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_wilson_covers_a_rate_as_often_as_its_level_says(rate: float) -> None:
    num_items = 82
    found = [wilson_interval(hits, num_items, 0.95) for hits in range(num_items + 1)]
    covered = [interval.low <= rate <= interval.high for interval in found]
    # Not a simulation: the exact probability of all counts that cover.
    coverage = float(binom.pmf(np.arange(num_items + 1), num_items, rate)[covered].sum())
    assert coverage == pytest.approx(0.95, abs=0.03)


def test_the_method_follows_from_figure_and_groups() -> None:
    hits = np.arange(40) % 3 == 0
    score = mean("score", np.arange(40.0))
    pairs = [f"patient {index // 2}" for index in range(40)]

    interval, method = interval_of(proportion("accuracy", hits), names(40), SMALL)
    assert (interval, method) == (wilson_interval(14, 40, 0.95), WILSON)
    assert interval_of(proportion("accuracy", hits), pairs, SMALL)[1] == BOOTSTRAP
    assert interval_of(score, names(40), SMALL)[1] == BOOTSTRAP


def test_a_share_of_some_of_the_items_is_a_proportion_of_those() -> None:
    rng = np.random.default_rng(0)
    counted = rng.random(50) < 0.4
    hits = counted & (rng.random(50) < 0.7)
    recall = ratio("recall", hits.astype(float), counted.astype(float))
    interval, method = interval_of(recall, names(50), SMALL)
    assert (interval, method) == (wilson_interval(hits.sum(), counted.sum(), 0.95), WILSON)
    # It is none of them: whole numbers that are not 0 and 1, or hits among what does not count.
    for columns in ((2.0 * hits, 1.0 * counted), (1.0 * ~counted, 1.0 * counted)):
        assert interval_of(ratio("x", *columns), names(50), SMALL)[1] == BOOTSTRAP


def test_groups_with_two_items_that_count_are_drawn_and_those_with_one_are_independent() -> None:
    groups = [f"patient {index // 2}" for index in range(40)]
    hits = np.arange(40) % 3 == 0
    one_each = ratio("recall", 1.0 * (hits & (np.arange(40) % 2 == 0)), np.arange(40) % 2 == 0)
    assert interval_of(one_each, groups, SMALL)[1] == WILSON
    assert interval_of(ratio("recall", 1.0 * hits, np.ones(40)), groups, SMALL)[1] == BOOTSTRAP


def test_what_never_varies_has_no_bounds() -> None:
    for columns in ((np.zeros(9), np.ones(9)), (np.zeros(9), np.zeros(9))):
        interval, method = interval_of(ratio("f1", *columns), names(9), SMALL)
        assert (interval.value, method) == (0.0, NO_SCATTER)
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


@pytest.mark.parametrize(("num_hits", "method"), [(4, TOO_FEW), (5, BOOTSTRAP)])
def test_a_label_needs_five_groups_in_each_count(num_hits: int, method: str) -> None:
    truths = ["a"] * 30 + ["b"] * 8
    answers = ["a"] * 24 + ["b"] * 6 + ["b"] * num_hits + ["a"] * (8 - num_hits)
    assert interval_of(macro_f1(["a", "b"], truths, answers), names(38), SMALL)[1] == method
    found, _ = interval_of(macro_f1(["a", "b"], truths, answers), names(38), SMALL)
    assert math.isnan(found.low) == (method == TOO_FEW)


def test_a_mean_needs_five_groups_beside_those_that_are_alike() -> None:
    for num_others, method in ((4, TOO_FEW), (5, BOOTSTRAP)):
        values = np.where(np.arange(40) < num_others, 0.5, 1.0)
        assert interval_of(mean("score", values), names(40), SMALL)[1] == method


def test_what_is_not_finite_in_a_resample_has_no_bounds() -> None:
    values = np.zeros((9, 2))
    values[:, 0] = np.arange(9)
    whole = Measure("x", values, lambda sums: np.where(sums[:, 0] == 36, 1.0, np.inf))
    found, method = interval_of(whole, names(9), SMALL)
    assert (found.value, method) == (1.0, NOT_FINITE)
    assert math.isnan(found.high)


def test_one_group_has_a_value_and_no_bounds() -> None:
    interval, method = interval_of(mean("score", np.array([1.0, 3.0])), ["a", "a"], SMALL)
    assert (interval.value, method) == (2.0, ONE_GROUP)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_the_order_of_the_items_changes_nothing() -> None:
    hits = np.random.default_rng(0).random(60) < 0.6
    groups = np.array([f"patient {index % 25}" for index in range(60)])
    order = np.random.default_rng(1).permutation(60)
    one, _ = interval_of(proportion("accuracy", hits), list(groups), SMALL)
    other, _ = interval_of(proportion("accuracy", hits[order]), list(groups[order]), SMALL)
    assert one == other


def test_copies_of_an_item_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(2).normal(size=50)
    once, _ = interval_of(mean("score", values), names(50), SMALL)
    often, _ = interval_of(mean("score", np.repeat(values, 8)), sorted(names(50) * 8), SMALL)
    assert (often.low, often.high) == pytest.approx((once.low, once.high), rel=1e-12)
    naive, _ = interval_of(mean("score", np.repeat(values, 8)), names(400), SMALL)
    assert naive.high - naive.low < 0.5 * (once.high - once.low)  # about 1 / sqrt(8)


def test_groups_cover_the_truth_where_items_on_their_own_do_not() -> None:
    rng = np.random.default_rng(3)
    groups = [f"{index // 6:02d}" for index in range(240)]
    covered = {"grouped": 0, "alone": 0}
    for trial in range(150):
        shared = np.repeat(rng.normal(size=40), 6)  # items of a group share most of their score
        score = mean("score", shared + 0.3 * rng.normal(size=240))
        for name, units in (("grouped", groups), ("alone", names(240))):
            found, _ = interval_of(score, units, Bootstrap(200, 0.9, seed=trial))
            covered[name] += found.low <= 0 <= found.high
    # 40 groups at 90 %: 135 of 150 expected, standard deviation 3.7. Without groups the interval is
    # about 1 / sqrt(6) as wide and covers half of the time.
    assert covered["grouped"] >= 120
    assert covered["alone"] <= 95


def test_no_items_have_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        interval_of(proportion("accuracy", np.zeros(0, dtype=bool)), [], SMALL)
