"""The plain mean of a figure over several sets of items."""

import numpy as np
import pytest

from biomamba.metrics.measure import Bootstrap, interval_of, mean, mean_over, ratio


def test_each_set_counts_the_same() -> None:
    one = mean("m", np.array([1.0, 3.0]))
    two = ratio("m", np.array([4.0, 4.0, 0.0]), np.array([1.0, 1.0, 2.0]))
    found = mean_over([one, two], [["a", "b"], ["a", "b", "b"]])

    assert found.measure.value == (2 + 2) / 2
    assert found.measure.columns.shape == (5, 4)
    assert found.units == ["0:a", "0:b", "1:a", "1:b", "1:b"]


def test_one_set_is_the_plain_figure() -> None:
    one = mean("m", np.arange(20.0))
    units = [str(number) for number in range(20)]
    found = mean_over([one], [units])
    bootstrap = Bootstrap(num_resamples=2_000, seed=1)
    alone, combined = (
        interval_of(one, units, bootstrap)[0],
        interval_of(found.measure, found.units, bootstrap)[0],
    )
    assert combined.value == alone.value
    assert combined.low == pytest.approx(alone.low, abs=0.2)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="need as many lists of units"):
        mean_over([mean("m", np.ones(2))], [])
