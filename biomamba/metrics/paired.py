"""Two models on the same items: how far apart they are, and whether chance explains it.

The tests of this module ask: if each group of items had been answered by the two models with their
names exchanged at random, how often would they lie as far apart as they do? For a mean over items
that tests whether the means are equal. Other figures (precision, F1, BLEU) can be equal while the
models answer differently, and then their plain difference after a swap scatters otherwise than it
does by chance. Divided by its standard error after each swap it does not: the studentized test
holds for equal figures in large samples, and exactly if the models are exchangeable.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from biomamba.metrics.grouped import BOOTSTRAP, drawn_interval, group_columns
from biomamba.metrics.interval import Bootstrap
from biomamba.metrics.measure import Measure

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
    randomisation test that exchanges the answers of the models group by group: over all exchanges
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
