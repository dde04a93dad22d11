"""Bootstrap intervals over documents."""

import numpy as np
import pytest
from scipy.stats import norm, t, ttest_1samp

from biomamba.metrics.measure import (
    Bootstrap,
    bootstrap_interval,
    draw_counts,
    percentile_interval,
)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


def test_value_is_the_ratio_of_sums() -> None:
    columns = np.array([[1.0, 1.0], [9.0, 3.0]])
    assert bootstrap_interval(columns, _ratio, Bootstrap(num_resamples=10)).value == 10 / 4


def test_equal_documents_have_an_interval_of_no_width() -> None:
    columns = np.tile([3.0, 2.0], (50, 1))
    interval = bootstrap_interval(columns, _ratio, Bootstrap(num_resamples=100))
    assert (interval.low, interval.value, interval.high) == (1.5, 1.5, 1.5)


def test_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    columns = np.random.default_rng(0).random((30, 2)) + 1
    draw = [bootstrap_interval(columns, _ratio, Bootstrap(seed=seed)) for seed in (1, 1, 2)]
    assert draw[0] == draw[1]
    assert draw[0].low != draw[2].low


def test_interval_of_a_mean_agrees_with_its_standard_error() -> None:
    rng = np.random.default_rng(3)
    columns = np.stack([rng.normal(5, 2, 400), np.ones(400)], axis=1)
    interval = bootstrap_interval(columns, _ratio, Bootstrap(num_resamples=4_000))
    standard_error = columns[:, 0].std() / np.sqrt(400)
    half_width = (interval.high - interval.low) / 2
    # 4,000 resamples estimate a 2.5 % quantile to about 3 % of its distance from the mean.
    assert half_width == pytest.approx(1.96 * standard_error, rel=0.06)


def test_interval_covers_the_truth_as_often_as_its_level_says() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(200):
        columns = np.stack([rng.normal(1, 1, 60), np.ones(60)], axis=1)
        interval = bootstrap_interval(columns, _ratio, Bootstrap(400, 0.9, seed=trial))
        covered += interval.low <= 1 <= interval.high
    # Binomial(200, 0.9) has standard deviation 4.2; a percentile interval of 60 is a bit narrow.
    assert 165 <= covered <= 195


def test_no_documents_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one document"):
        bootstrap_interval(np.zeros((0, 2)), _ratio, Bootstrap())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"num_resamples": 0}, "at least 1, found 0"), ({"level": 1.0}, "below 1, found 1.0")],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bootstrap(**settings)  # type: ignore[arg-type]


def test_figures_of_the_same_documents_are_drawn_together() -> None:
    settings = Bootstrap(num_resamples=100, seed=5)
    one, other = (np.concatenate(list(draw_counts(7, settings))) for _ in range(2))
    assert (one == other).all()
    assert one.shape == (100, 7)
    assert set(one.sum(axis=1)) == {7}


def test_the_quantiles_enclose_the_level() -> None:
    many = percentile_interval(50.0, np.arange(101.0), level=0.9, num_documents=10**9)
    assert (many.low, many.value, many.high) == pytest.approx((5.0, 50.0, 95.0))
    # The quantiles of 10 documents are those that a t interval of 9 degrees of freedom spans.
    few = percentile_interval(50.0, np.arange(101.0), level=0.9, num_documents=10)
    tail = 100 * norm.cdf(t.ppf(0.05, 9) * np.sqrt(10 / 9))
    assert (few.low, few.high) == pytest.approx((tail, 100 - tail))
    assert tail < 3


def test_the_interval_of_a_few_normal_values_is_about_their_t_interval() -> None:
    # Quantiles of a normal law: the resampled mean of n values has deviation std(values) / sqrt(n).
    values = np.random.default_rng(4).normal(size=8)
    error = values.std() / np.sqrt(8)
    law = norm.ppf((np.arange(100_000) + 0.5) / 100_000, values.mean(), error)
    found = percentile_interval(values.mean(), law, 0.95, num_documents=8)
    theirs = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-3)
