"""Figures made of sums of columns."""

import math

import numpy as np
import pytest

from biomamba.metrics.measure import Measure, mean, proportion, ratio


def test_a_mean_is_the_mean() -> None:
    values = np.array([1.0, 2.0, 6.0])
    found = mean("score", values, higher_is_better=None)
    assert found.value == values.mean()
    assert (found.name, found.higher_is_better, found.is_proportion) == ("score", None, False)


def test_a_proportion_is_the_share_of_hits_with_columns_of_zeros_and_ones() -> None:
    found = proportion("accuracy", np.array([True, False, True, True]))
    assert found.value == 3 / 4
    assert found.columns.tolist() == [[1, 1], [0, 1], [1, 1], [1, 1]]
    assert found.is_proportion
    assert found.higher_is_better


def test_a_ratio_divides_sums_and_not_items() -> None:
    found = ratio("share", np.array([1.0, 9.0]), np.array([1.0, 3.0]))
    assert found.value == 10 / 4  # the mean of the ratios is 2
    assert not found.is_proportion


def test_a_ratio_to_nothing_is_zero() -> None:
    assert ratio("share", np.array([3.0]), np.array([0.0])).value == 0.0


def test_no_items_have_no_value() -> None:
    assert math.isnan(mean("score", np.zeros(0)).value)
    assert math.isnan(proportion("accuracy", np.zeros(0, dtype=bool)).value)


def test_a_statistic_of_many_rows_of_sums_is_that_of_each() -> None:
    columns = np.random.default_rng(0).random((20, 2))
    found = ratio("share", columns[:, 0], columns[:, 1])
    each = [found.statistic(row[None])[0] for row in columns]
    assert found.statistic(columns).tolist() == each


def test_the_value_does_not_depend_on_the_order_of_the_items() -> None:
    columns = np.random.default_rng(1).random((50, 3))

    def f1(sums: np.ndarray) -> np.ndarray:
        return 2 * sums[:, 0] / (2 * sums[:, 0] + sums[:, 1] + sums[:, 2])

    turned = Measure("f1", columns[::-1], f1)
    assert turned.value == pytest.approx(Measure("f1", columns, f1).value, rel=1e-12)
