"""Paired tests of two models, Holm correction, power, and several seeds of one configuration."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import binom, nct, t

from biomamba.metrics.measure import (
    BOOTSTRAP,
    NO_SCATTER,
    Bootstrap,
    Interval,
    Measure,
    draw_counts,
    drawn_interval,
    group_columns,
    why_no_interval,
)
from biomamba.runtime.numbers import check_number, check_whole

# -------------------------------------------------------------------------------------------------
# Two models on the same items: how far apart they are, and whether chance explains it.
#
# The tests of this module ask: if each group of items had been answered by the two models with
# their names exchanged at random, how often would they be as far apart as they are? For a mean over
# items that tests whether the means are equal. Other figures (precision, F1, BLEU) can be equal
# while the models answer differently, and then their plain difference after a swap scatters
# otherwise than it does by chance. Divided by its standard error after each swap it does not: the
# studentized test holds for equal figures in large samples, and exactly if the models are
# exchangeable.
# -------------------------------------------------------------------------------------------------

MCNEMAR, EXACT_SWAPS, RANDOM_SWAPS = "mcnemar, exact", "swaps, exact", "swaps, drawn"
STUDENTIZED = ", studentized"
NO_TEST = "none: swaps do not test whether this figure is equal"
TOO_FEW = "none: too few items count in one of the models"
# All 2**12 = 4,096 exchanges are looked at if no more groups than this differ, else some are drawn.
_EXACT_GROUPS = 12
_BLOCK_SWAPS = 64
# Values that differ by less than this share are equal: sums depend on their order.
_ROUNDING = 1e-9
# Of a figure that is no mean over items. Under equal figures simulated by
# benchmarks/paired_tests.py, with so many items that count in each model, the studentized test at
# the 5 % level rejects 4 to 6.3 %.
_MIN_COUNTING_ITEMS = 15.0
_STEP = 1e-4  # relative, of the numerical derivative of a statistic


@dataclass(frozen=True)
class Difference:
    """How much larger a figure of one model is than that of another.

    Attributes:
        value: First minus second.
        low: Lower bound of the interval, groups being drawn for both models at once; nan where
            there is none.
        high: Upper bound.
        p_value: Two-sided; how probable a difference of this size is if the models are
            exchangeable on every group.
        standard_error: Of the difference; nan where nothing tells it.
        test: Where p_value comes from.
        method: How the interval was made, or why there is none.
        freedom: Degrees of freedom of the standard error.
    """

    value: float
    low: float
    high: float
    p_value: float
    standard_error: float
    test: str
    method: str = BOOTSTRAP
    freedom: float = math.inf


@dataclass(frozen=True)
class McNemar:
    """How often exactly one of two models is right, and the probability of such an imbalance."""

    a_only: int
    b_only: int
    p_value: float


def mcnemar(hits_a: NDArray[np.bool_], hits_b: NDArray[np.bool_]) -> McNemar:
    """Test whether two models are right equally often, by the exact two-sided sign test.

    Only items on which exactly one is right matter; each is a fair coin if the models are equal.
    Source: McNemar, Note on the sampling error of the difference between correlated proportions or
    percentages, Psychometrika 12, 1947; its exact form.

    Raises:
        ValueError: the models were not asked the same number of items.
    """
    if len(hits_a) != len(hits_b):
        raise ValueError(f"one model has {len(hits_a)} items, the other {len(hits_b)}")
    a, b = np.asarray(hits_a, dtype=bool), np.asarray(hits_b, dtype=bool)
    a_only, b_only = int((a & ~b).sum()), int((b & ~a).sum())
    tail = binom.cdf(min(a_only, b_only), a_only + b_only, 0.5)
    return McNemar(a_only, b_only, min(1.0, 2 * float(tail)))


def paired_difference(
    a: Measure, b: Measure, groups: Sequence[str], bootstrap: Bootstrap
) -> Difference:
    """Return how much larger the figure of the first model is, from the same items in one order.

    The p value is that of McNemar's exact test for proportions of independent items, else of the
    randomization test that exchanges the answers of the models group by group: over all exchanges
    if few groups differ, else over num_resamples drawn ones, (1 + as extreme) / (1 + drawn). It
    compares the difference of means over items as it is, and that of other figures divided by its
    standard error. A figure that is not smooth (the calibration error), or in which few items
    count, has neither test nor interval (nan). There is no interval either where drawn_interval has
    none.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 15; Noreen,
    Computer-Intensive Methods for Testing Hypotheses, 1989; Chung and Romano, Exact and
    asymptotically robust permutation tests, Annals of Statistics 41, 2013 (studentized).

    Raises:
        ValueError: the figures differ in name or columns, or there are no items.
    """
    if a.name != b.name or a.columns.shape != b.columns.shape:
        raise ValueError(
            f"not the same figure of the same items: {a.name} {a.columns.shape} and "
            f"{b.name} {b.columns.shape}"
        )
    first, second = group_columns(a, groups), group_columns(b, groups)
    num_columns = a.columns.shape[1]

    def difference(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return a.statistic(sums[:, :num_columns]) - b.statistic(sums[:, num_columns:])

    test, p_value = _test(first, second, bootstrap)
    freedom = len(first.columns) - 1
    value = first.value - second.value
    if len(first.columns) > 1 and value == 0 and np.array_equal(first.columns, second.columns):
        return Difference(0.0, 0.0, 0.0, p_value, 0.0, test, BOOTSTRAP, freedom)
    if test in (NO_TEST, TOO_FEW):
        return Difference(value, math.nan, math.nan, p_value, math.nan, test, test, freedom)
    columns = np.concatenate([first.columns, second.columns], axis=1)
    drawn = drawn_interval(Measure(a.name, columns, difference, is_smooth=a.is_smooth), bootstrap)
    found, error = drawn.interval, drawn.standard_error
    return Difference(
        found.value, found.low, found.high, p_value, error, test, drawn.method, freedom
    )


def _test(a: Measure, b: Measure, bootstrap: Bootstrap) -> tuple[str, float]:
    """Return the name of the test that suits two grouped figures, and its p value."""
    if a.is_proportion and b.is_proportion:
        return MCNEMAR, mcnemar(a.columns[:, 0] > 0, b.columns[:, 0] > 0).p_value
    if not a.is_smooth:
        return NO_TEST, math.nan
    if not _is_mean(a, b):
        return _studentized_test(a, b, bootstrap)
    excess = a.columns - b.columns
    excess = excess[np.any(excess != 0, axis=1)]  # an exchange of equal answers changes nothing
    is_exact = len(excess) <= _EXACT_GROUPS
    swaps = _all_swaps(len(excess)) if is_exact else _random_swaps(len(excess), bootstrap)
    sum_a, sum_b = a.columns.sum(axis=0), b.columns.sum(axis=0)
    value_a, value_b = a.statistic(sum_a[None])[0], b.statistic(sum_b[None])[0]
    if math.isnan(value_a - value_b):
        return (EXACT_SWAPS if is_exact else RANDOM_SWAPS), math.nan
    bar = abs(value_a - value_b) - _ROUNDING * max(abs(value_a), abs(value_b))
    num_extreme = num_swaps = 0
    for block in swaps:
        moved = block @ excess
        distance = np.abs(a.statistic(sum_a - moved) - b.statistic(sum_b + moved))
        num_extreme += int((~(distance < bar)).sum())  # what is undefined counts as extreme
        num_swaps += len(block)
    if is_exact:
        return EXACT_SWAPS, num_extreme / num_swaps
    return RANDOM_SWAPS, (1 + num_extreme) / (1 + num_swaps)


def _is_mean(a: Measure, b: Measure) -> bool:
    """Whether a swap changes numerators only: both models share all columns but the first.

    Then the figure of both is a function of one sum over the same items.
    """
    return np.array_equal(a.columns[:, 1:], b.columns[:, 1:])


def _studentized_test(a: Measure, b: Measure, bootstrap: Bootstrap) -> tuple[str, float]:
    """Return name and p value of the test that divides each difference by its standard error."""
    excess = a.columns - b.columns
    moving = np.flatnonzero(np.any(excess != 0, axis=1))
    is_exact = len(moving) <= _EXACT_GROUPS
    name = f"{EXACT_SWAPS if is_exact else RANDOM_SWAPS}{STUDENTIZED}"
    none = np.zeros((1, len(moving)))
    found, influences = _studentized(a, b, excess, moving, none)
    if math.isnan(found[0]):
        return name, math.nan
    if not is_exact and min(map(_counting_items, influences)) < _MIN_COUNTING_ITEMS:
        return TOO_FEW, math.nan
    swaps = _all_swaps(len(moving)) if is_exact else _random_swaps(len(moving), bootstrap)
    bar = found[0] - _ROUNDING * max(1.0, found[0]) if math.isfinite(found[0]) else found[0]
    num_extreme = num_swaps = 0
    for block in swaps:
        distance, _ = _studentized(a, b, excess, moving, block)
        num_extreme += int((~(distance < bar)).sum())
        num_swaps += len(block)
    if is_exact:
        return name, num_extreme / num_swaps
    return name, (1 + num_extreme) / (1 + num_swaps)


def _studentized(
    a: Measure,
    b: Measure,
    excess: NDArray[np.float64],
    moving: NDArray[np.intp],
    swaps: NDArray[np.float64],
) -> tuple[NDArray[np.float64], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return |difference| over its standard error after each swap, and the last influences.

    The standard error is that of the infinitesimal jackknife: an item moves a figure by its columns
    times the derivative of the statistic.

    Args:
        a: Of the first model, one row per group.
        b: Of the second.
        excess: Columns of the first minus those of the second.
        moving: Rows where these differ.
        swaps: (swaps, moving rows), 1 where the models are exchanged.
    """
    moved = swaps @ excess[moving]
    sums_a, sums_b = a.columns.sum(axis=0) - moved, b.columns.sum(axis=0) + moved
    slopes_a, slopes_b = _slopes(a, sums_a), _slopes(b, sums_b)
    of_a, of_b = a.columns @ slopes_a.T, b.columns @ slopes_b.T  # (groups, swaps)
    of_a[moving] -= swaps.T * (excess[moving] @ slopes_a.T)
    of_b[moving] += swaps.T * (excess[moving] @ slopes_b.T)
    influence = of_a - of_b
    errors = np.sqrt(((influence - influence.mean(axis=0)) ** 2).sum(axis=0))
    distance = np.abs(a.statistic(sums_a) - b.statistic(sums_b))
    # Without scatter a difference is beyond any chance, and none is none.
    without = np.where(distance > _ROUNDING, np.inf, 0.0)
    ratios = np.divide(distance, errors, out=without, where=errors > _ROUNDING)
    return ratios, (of_a[:, -1] - of_a[:, -1].mean(), of_b[:, -1] - of_b[:, -1].mean())


def _slopes(measure: Measure, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the derivative of a statistic by each column sum, at each row of sums.

    A sum of 0 has none: counts cannot fall below, and BLEU jumps at the first match.
    """
    slopes = np.zeros_like(sums)
    for column in range(sums.shape[1]):
        step = _STEP * np.abs(sums[:, column])
        above, below = sums.copy(), sums.copy()
        above[:, column] += step
        below[:, column] -= step
        change = measure.statistic(above) - measure.statistic(below)
        np.divide(change, 2 * step, out=slopes[:, column], where=step > 0)
    return slopes


def _counting_items(influence: NDArray[np.float64]) -> float:
    """Return how many items of equal influence would scatter as these do.

    Source: the participation ratio, (sum x**2)**2 / sum x**4.
    """
    fourth = float((influence**4).sum())
    return float((influence**2).sum()) ** 2 / fourth if fourth > 0 else 0.0


def _all_swaps(num_groups: int) -> Iterator[NDArray[np.float64]]:
    """Yield every choice of groups, as one block (2**groups, groups) of zeros and ones."""
    choices = np.arange(2**num_groups)[:, None] >> np.arange(num_groups)[None]
    yield (choices & 1).astype(np.float64)


def _random_swaps(num_groups: int, bootstrap: Bootstrap) -> Iterator[NDArray[np.float64]]:
    rng = np.random.Generator(np.random.Philox([bootstrap.seed, 1]))  # not the bootstrap's draws
    for start in range(0, bootstrap.num_resamples, _BLOCK_SWAPS):
        rows = min(_BLOCK_SWAPS, bootstrap.num_resamples - start)
        yield rng.integers(0, 2, size=(rows, num_groups)).astype(np.float64)


# -------------------------------------------------------------------------------------------------
# Several tests in one table: p values that bound the chance of any false finding.
# -------------------------------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the adjusted p values, in the given order.

    Calling those below alpha findings gives a false one with probability alpha at most, however the
    tests depend on each other. nan (a test that could not be made) stays nan and does not count.
    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6, 1979.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")  # nan comes last
    order = order[: int((~np.isnan(values)).sum())]
    factors = len(order) - np.arange(len(order))
    adjusted = np.full(len(values), np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    return [float(value) for value in adjusted]


# -------------------------------------------------------------------------------------------------
# How small a difference a test set can show: the size that is found with a given power.
#
# A difference below it may well exist and not be seen; "no significant difference" then says
# little.
# -------------------------------------------------------------------------------------------------

_NEARLY_NORMAL = 1e6  # degrees of freedom


def minimum_detectable_difference(
    n: int, rate: float, power: float = 0.8, level: float = 0.95
) -> float:
    """Return the smallest difference in a proportion to a model of other answers on n items each.

    The other model is taken to be towards 1/2, where proportions scatter most, and its errors to
    be unrelated; errors that fall on the same items show smaller differences
    (minimum_detectable_paired_difference). nan if n items show no difference at all.
    Source: Fleiss, Levin and Paik, Statistical Methods for Rates and Proportions, 3rd edition,
    equation 4.14, without continuity correction.

    Raises:
        ValueError: a number is out of its range.
    """
    _check(n, rate, power, level)
    z_level, z_power = _quantiles(power, level)
    sign = 1 if rate <= 0.5 else -1
    largest = 1 - rate if sign > 0 else rate

    def shortfall(difference: float) -> float:
        other = rate + sign * difference
        middle = (rate + other) / 2
        together = z_level * math.sqrt(2 * middle * (1 - middle))
        apart = z_power * math.sqrt(rate * (1 - rate) + max(0.0, other * (1 - other)))
        return together + apart - difference * math.sqrt(n)

    if shortfall(largest) > 0:
        return math.nan
    return float(brentq(shortfall, 1e-12, largest, xtol=1e-12))


def minimum_detectable_paired_difference(
    n: int, discordant_ratio: float, power: float = 0.8, level: float = 0.95
) -> float:
    """Return the smallest difference in a proportion that McNemar's exact test shows on n items.

    discordant_ratio is the share of items on which exactly one of the models is right. nan if n
    items show no difference at all. The power is that of the exact test itself, summed over how
    many items may differ and which model is right on them; the normal law (Connor 1987) promises
    80 % where the exact test has 76 to 78 %.

    Raises:
        ValueError: a number is out of its range.
    """
    _check(n, discordant_ratio, power, level)
    if mcnemar_power(n, discordant_ratio, discordant_ratio, level) < power:
        return math.nan

    def excess(difference: float) -> float:
        return mcnemar_power(n, discordant_ratio, difference, level) - power

    return float(brentq(excess, 0.0, discordant_ratio, xtol=1e-9))


def mcnemar_power(n: int, discordant_ratio: float, difference: float, level: float = 0.95) -> float:
    """Return how often McNemar's exact test on n items calls models different.

    Exactly one model is right on a share discordant_ratio of all items, and their shares of right
    answers differ by difference.
    """
    if discordant_ratio == 0:
        return 0.0
    width = 8 * math.sqrt(n * discordant_ratio * (1 - discordant_ratio)) + 8
    middle = n * discordant_ratio
    counts = np.arange(max(0, int(middle - width)), min(n, int(middle + width)) + 1)
    share = (1 + difference / discordant_ratio) / 2  # of the discordant items, won by the better
    # The largest count in a tail that the two-sided test still refuses; -1 without one.
    edge = binom.ppf((1 - level) / 2, counts, 0.5).astype(np.int64)
    edge -= 2 * binom.cdf(edge, counts, 0.5) > 1 - level
    refused = binom.cdf(edge, counts, share) + binom.cdf(edge, counts, 1 - share)
    return float((binom.pmf(counts, n, discordant_ratio) * refused).sum())


def detectable_by(
    standard_error: float, power: float = 0.8, level: float = 0.95, *, freedom: float = math.inf
) -> float:
    """Return the smallest difference that a test shows whose statistic is nearly Student's t.

    The test that exchanges the answers of two models is one: its p value is a function of the
    difference over its standard error. The power is that of noncentral t. nan without a standard
    error, also if it is 0: figures that never vary tell nothing of it.

    Args:
        standard_error: Of the difference.
        power: How often the test shall show it.
        level: One minus the level of the test.
        freedom: Degrees of freedom of the standard error.
    """
    _check(1, 0.0, power, level)
    if not (standard_error > 0 and freedom > 0):
        return math.nan
    freedom = min(freedom, _NEARLY_NORMAL)
    edge = float(t.ppf((1 + level) / 2, freedom))

    def excess(shift: float) -> float:
        return float(nct.sf(edge, freedom, shift)) - power

    return standard_error * float(brentq(excess, 0.0, 4 * edge + 10))


def _quantiles(power: float, level: float) -> tuple[float, float]:
    return float(ndtri((1 + level) / 2)), float(ndtri(power))


def _check(n: int, rate: float, power: float, level: float) -> None:
    check_whole("n", n)
    check_number("a rate", rate, at_least=0, at_most=1)
    check_number("power", power, at_least=0.5, below=1)
    check_number("level", level, above=0, below=1)


# -------------------------------------------------------------------------------------------------
# One recipe trained with several seeds: what of a figure is the recipe and what is the seed.
#
# Two or three seeds hardly show their own scatter, and resampling them would hide that. So the
# variances of groups of items (by bootstrap) and of seeds (of the sample) are added, and Student's
# t with the degrees of freedom of Welch and Satterthwaite gives intervals and p values.
# Source: Satterthwaite, An approximate distribution of estimates of variance components, Biometrics
# Bulletin 2, 1946; Welch, The generalization of "Student's" problem, Biometrika 34, 1947.
# -------------------------------------------------------------------------------------------------

SEEDS = "t over seeds and groups"
# Scatter below this share of a figure is none: sums depend on their order.
_SEED_ROUNDING = 1e-12
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
    if scatter.variance == 0 and abs(value) <= _SEED_ROUNDING * max(map(abs, values[0])):
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
        if (
            variance
            <= (_SEED_ROUNDING * max(abs(value) for values in recipes for value in values)) ** 2
        ):
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
