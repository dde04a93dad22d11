"""One recipe trained with several seeds: what of a figure is the recipe and what is the seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from biomamba.metrics.grouped import group_columns
from biomamba.metrics.interval import (
    Bootstrap,
    Interval,
    bootstrap_values,
    draw_counts,
    percentile_interval,
)
from biomamba.metrics.measure import Measure
from biomamba.metrics.paired import Difference

SEEDS = "bootstrap over seeds and groups"

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SeedSummary:
    """A figure over seeds.

    Attributes:
        mean: Over the seeds.
        deviation: Sample standard deviation (divided by seeds - 1); nan for one seed.
        low: Lower bound of the t interval of the mean; nan for one seed.
        high: Upper bound.
        num_seeds: How many there are.
    """

    mean: float
    deviation: float
    low: float
    high: float
    num_seeds: int


def over_seeds(values: Sequence[float], level: float = 0.95) -> SeedSummary:
    """Return mean, sample standard deviation and t interval of one value per seed.

    The interval is about other seeds on the same items; hierarchical_interval about other items
    too.

    Raises:
        ValueError: without values.
    """
    num_seeds = len(values)
    if num_seeds == 0:
        raise ValueError("a summary over seeds needs at least one value")
    mean = float(np.mean(values))
    if num_seeds == 1:
        return SeedSummary(mean, math.nan, math.nan, math.nan, 1)
    deviation = float(np.std(values, ddof=1))
    half = float(t.ppf((1 + level) / 2, num_seeds - 1)) * deviation / math.sqrt(num_seeds)
    return SeedSummary(mean, deviation, mean - half, mean + half, num_seeds)


def hierarchical_interval(
    seeds: Sequence[Measure], groups: Sequence[str], bootstrap: Bootstrap
) -> Interval:
    """Return the mean over seeds with an interval about other seeds and other groups of items.

    The bounds are nan if all resamples are alike, which says nothing about others.

    Raises:
        ValueError: fewer than two seeds, or figures of other items.
    """
    values = hierarchical_values(seeds, groups, bootstrap)
    mean = float(np.mean([measure.value for measure in seeds]))
    found = percentile_interval(mean, values, bootstrap.level)
    return found if found.low < found.high else Interval(mean, math.nan, math.nan)


def hierarchical_values(
    seeds: Sequence[Measure], groups: Sequence[str], bootstrap: Bootstrap, stream: int = 0
) -> Values:
    """Return the resampled means over seeds; groups are drawn as in every other interval.

    All seeds answer the same items, so a resample draws groups once and seeds once. One seed fewer
    than there are is drawn, which makes the variance between seeds right on average. Two recipes
    take two streams: their seeds are drawn apart, their groups together.
    Source: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007; Rao and Wu,
    Resampling inference with complex survey data, JASA 83, 1988.

    Raises:
        ValueError: fewer than two seeds, or figures of other items.
    """
    if len(seeds) < 2:
        raise ValueError("an interval over seeds needs at least two of them")
    grouped = [group_columns(measure, groups) for measure in seeds]
    rng = np.random.Generator(np.random.Philox([bootstrap.seed, 2, stream]))
    means = []
    for counts in draw_counts(len(grouped[0].columns), bootstrap):
        values = np.stack([each.statistic(counts @ each.columns) for each in grouped], axis=1)
        drawn = rng.integers(0, len(seeds), size=(len(counts), len(seeds) - 1))
        means.append(np.take_along_axis(values, drawn, axis=1).mean(axis=1))
    return np.concatenate(means)


def difference_over_seeds(
    a: Sequence[Measure], b: Sequence[Measure], groups: Sequence[str], bootstrap: Bootstrap
) -> Difference:
    """Return how much larger the mean over seeds of the first recipe is.

    Groups are drawn for both at once, seeds apart. A recipe of one seed adds nothing to the
    scatter, because nothing is known of its other seeds. The p value is twice the share of the
    resamples on the far side of 0, (1 + those) / (1 + all): it agrees with the interval, and is
    rough for few seeds.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, section 15.4.

    Raises:
        ValueError: a recipe without seeds, or figures of other items.
    """
    values = _values(a, groups, bootstrap, 0) - _values(b, groups, bootstrap, 1)
    value = float(np.mean([each.value for each in a]) - np.mean([each.value for each in b]))
    if len(set(groups)) == 1:
        return Difference(value, math.nan, math.nan, math.nan, math.nan, SEEDS)
    found = percentile_interval(value, values, bootstrap.level)
    beyond = min(int((values <= 0).sum()), int((values >= 0).sum()))
    p_value = min(1.0, 2 * (1 + beyond) / (1 + len(values)))
    return Difference(value, found.low, found.high, p_value, float(values.std()), SEEDS)


def _values(
    seeds: Sequence[Measure], groups: Sequence[str], bootstrap: Bootstrap, stream: int
) -> Values:
    if len(seeds) > 1:
        return hierarchical_values(seeds, groups, bootstrap, stream)
    grouped = group_columns(seeds[0], groups)
    return bootstrap_values(grouped.columns, grouped.statistic, bootstrap)
