"""One recipe trained with several seeds: what of a figure is the recipe and what is the seed.

Two or three seeds hardly show their own scatter, and resampling them would hide that. So the
variances of groups of items (by bootstrap) and of seeds (of the sample) are added, and Student's t
with the degrees of freedom of Welch and Satterthwaite gives intervals and p values.
Source: Satterthwaite, An approximate distribution of estimates of variance components, Biometrics
Bulletin 2, 1946; Welch, The generalization of "Student's" problem, Biometrika 34, 1947.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from biomamba.metrics.grouped import NO_SCATTER, group_columns, why_no_interval
from biomamba.metrics.interval import Bootstrap, Interval, draw_counts
from biomamba.metrics.measure import Measure
from biomamba.metrics.paired import Difference

SEEDS = "t over seeds and groups"

# Scatter below this share of a figure is none: sums depend on their order.
_ROUNDING = 1e-12

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

    The interval is about other seeds on the same items; interval_over_seeds about other items too.

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


def interval_over_seeds(
    seeds: Sequence[Measure], groups: Sequence[str], bootstrap: Bootstrap
) -> tuple[Interval, str]:
    """Return the mean over seeds with an interval about other seeds and items, and how it was made.

    The bounds are nan for one group, if nothing varies, and for a figure that is not smooth or not
    finite.

    Raises:
        ValueError: without seeds, or figures of other items.
    """
    values = _seed_values(seeds)
    if (reason := _why_no_interval(seeds, groups)) is not None:
        return Interval(float(np.mean(values)), math.nan, math.nan), reason
    scatter = _Scatter.of(_resampled_means(seeds, groups, bootstrap), len(set(groups)), [values])
    mean = float(np.mean(values))
    half = scatter.half_width(bootstrap.level)
    return Interval(mean, mean - half, mean + half), SEEDS if scatter.variance > 0 else NO_SCATTER


def difference_over_seeds(
    a: Sequence[Measure], b: Sequence[Measure], groups: Sequence[str], bootstrap: Bootstrap
) -> Difference:
    """Return how much larger the mean over seeds of the first recipe is.

    Groups are drawn for both at once; the seeds of the recipes are unrelated. The seed of a recipe
    that has one only is taken to scatter as those of the other recipe; if both have one, nothing is
    known of other seeds. Recipes that agree in
    everything have p value 1; else bounds and p value are nan for one group, if nothing varies, and
    for a figure that is not smooth or not finite.

    Raises:
        ValueError: a recipe without seeds, or figures of other items.
    """
    values = [_seed_values(a), _seed_values(b)]
    value = float(np.mean(values[0]) - np.mean(values[1]))
    if (reason := _why_no_interval([*a, *b], groups)) is not None:
        return Difference(value, math.nan, math.nan, math.nan, math.nan, reason, reason)
    resampled = _resampled_means(a, groups, bootstrap) - _resampled_means(b, groups, bootstrap)
    scatter = _Scatter.of(resampled, len(set(groups)), values)
    if scatter.variance == 0 and abs(value) <= _ROUNDING * max(map(abs, values[0])):
        return Difference(0.0, 0.0, 0.0, 1.0, 0.0, SEEDS)
    half = scatter.half_width(bootstrap.level)
    error = math.sqrt(scatter.variance)
    p_value = scatter.p_value(value)
    return Difference(
        value, value - half, value + half, p_value, error, SEEDS, SEEDS, scatter.freedom
    )


@dataclass(frozen=True)
class _Scatter:
    """The variance of an estimate and its degrees of freedom; nan for one group."""

    variance: float
    freedom: float

    @classmethod
    def of(
        cls, resampled: Values, num_groups: int, recipes: Sequence[Sequence[float]]
    ) -> "_Scatter":
        """Add the variances of groups and of the seeds of one or two recipes.

        The one seed of a recipe is taken to scatter as those of the other recipe.
        """
        if num_groups < 2:
            return cls(math.nan, math.nan)
        # Resamples scatter too little by (n - 1) / n.
        parts = [(float(resampled.var()) * num_groups / (num_groups - 1), num_groups - 1)]
        num_alone = sum(len(values) == 1 for values in recipes)
        parts += [
            (float(np.var(values, ddof=1)) * (1 / len(values) + num_alone), len(values) - 1)
            for values in recipes
            if len(values) > 1
        ]
        variance = sum(part for part, _ in parts)
        if variance <= (_ROUNDING * max(abs(value) for values in recipes for value in values)) ** 2:
            return cls(0.0, math.nan)
        weights = sum(part**2 / freedom for part, freedom in parts)
        return cls(variance, variance**2 / weights)

    def half_width(self, level: float) -> float:
        """Return half of the width of the interval."""
        return float(t.ppf((1 + level) / 2, self.freedom)) * math.sqrt(self.variance)

    def p_value(self, value: float) -> float:
        """Return the two-sided p value of an estimate."""
        if not self.variance > 0:
            return math.nan
        return min(1.0, 2 * float(t.sf(abs(value) / math.sqrt(self.variance), self.freedom)))


def _seed_values(seeds: Sequence[Measure]) -> list[float]:
    if not seeds:
        raise ValueError("a recipe needs at least one seed")
    return [measure.value for measure in seeds]


def _why_no_interval(seeds: Sequence[Measure], groups: Sequence[str]) -> str | None:
    reasons = (why_no_interval(group_columns(measure, groups)) for measure in seeds)
    return next((reason for reason in reasons if reason is not None), None)


def _resampled_means(
    seeds: Sequence[Measure], groups: Sequence[str], bootstrap: Bootstrap
) -> Values:
    """Return the mean over seeds of each resample of the groups; all seeds share the draws."""
    grouped = [group_columns(measure, groups) for measure in seeds]
    return np.concatenate(
        [
            np.mean([each.statistic(counts @ each.columns) for each in grouped], axis=0)
            for counts in draw_counts(len(grouped[0].columns), bootstrap)
        ]
    )
