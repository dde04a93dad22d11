"""Measures: sums of columns over items and a statistic of the sums; bootstrap intervals of both."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from biomamba.runtime.numbers import check_number, check_seed, check_whole

# -------------------------------------------------------------------------------------------------
# Bootstrap intervals over documents.
#
# Tokens of one document are not independent, so whole documents are drawn. Statistics are functions
# of column sums (ratios, differences of ratios), which lets thousands of resamples be one matrix
# product of draw counts and columns.
# -------------------------------------------------------------------------------------------------

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
# Rows of draw counts held at once: bounds memory at this many times the number of documents.
_BLOCK_RESAMPLES = 64


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn: expanded percentile bootstrap, reproducible by seed."""

    num_resamples: int = 2_000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("num_resamples", self.num_resamples)
        check_number("level", self.level, above=0, below=1)
        check_seed("seed", self.seed)


@dataclass(frozen=True)
class Interval:
    """A statistic with the bounds of its interval."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    columns: NDArray[np.float64], statistic: Statistic, bootstrap: Bootstrap
) -> Interval:
    """Return the statistic of all documents and its expanded percentile interval.

    columns is (documents, k); statistic maps column sums (resamples, k) to (resamples,).
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, section 13.3.

    Raises:
        ValueError: without documents.
    """
    values = bootstrap_values(columns, statistic, bootstrap)
    value = statistic(columns.sum(axis=0, keepdims=True))[0]
    return percentile_interval(float(value), values, bootstrap.level, len(columns))


def bootstrap_values(
    columns: NDArray[np.float64], statistic: Statistic, bootstrap: Bootstrap
) -> NDArray[np.float64]:
    """Return the statistic of every resample of the documents; see bootstrap_interval."""
    return np.concatenate(
        [statistic(counts @ columns) for counts in draw_counts(len(columns), bootstrap)]
    )


def draw_counts(num_documents: int, bootstrap: Bootstrap) -> Iterator[NDArray[np.int64]]:
    """Yield blocks (resamples, documents) of how often each resample holds each document.

    They depend on the number of documents and the seed only, so that figures of the same documents
    are drawn together.

    Raises:
        ValueError: without documents.
    """
    if num_documents == 0:
        raise ValueError("an interval needs at least one document")
    rng = np.random.Generator(np.random.Philox(bootstrap.seed))
    evenly = np.full(num_documents, 1 / num_documents)
    for start in range(0, bootstrap.num_resamples, _BLOCK_RESAMPLES):
        rows = min(_BLOCK_RESAMPLES, bootstrap.num_resamples - start)
        yield rng.multinomial(num_documents, evenly, size=rows)


def percentile_interval(
    value: float, values: NDArray[np.float64], level: float, num_documents: int
) -> Interval:
    """Return a value with quantiles of its resamples (resamples,), in at least two documents.

    Resamples scatter too little by the factor sqrt((n - 1) / n), and their quantiles are those of a
    normal law where Student's t is due. So the quantiles are further out, such that the interval of
    a mean is about as wide as its t interval.
    Source: Hesterberg, What teachers should know about the bootstrap, American Statistician 69,
    2015, section 3.3 (expanded percentile interval).
    """
    freedom = num_documents - 1
    tail = float(ndtr(stdtrit(freedom, (1 - level) / 2) * math.sqrt(num_documents / freedom)))
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


# -------------------------------------------------------------------------------------------------
# A figure over items that can be bootstrapped: sums of columns, and a statistic of the sums.
#
# Accuracy, macro-F1 (from counts of the confusion matrix), calibration (from sums per bin), corpus
# BLEU (from n-gram counts) and means of per-item scores all have this form.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """A figure.

    Attributes:
        name: As in tables, for example `macro_f1`.
        columns: (items, k); what each item adds.
        statistic: Maps column sums (resamples, k) to values (resamples,).
        higher_is_better: None where neither is.
        is_proportion: The value is hits / items with columns [hit, 1], hit being 0 or 1: it has an
            exact binomial law if the items are independent.
        is_smooth: The statistic has a derivative at the sums. A sum of absolute gaps has none where
            a gap is 0: its resamples are above it, and no interval or test of them holds.
    """

    name: str
    columns: NDArray[np.float64]
    statistic: Statistic
    higher_is_better: bool | None = True
    is_proportion: bool = False
    is_smooth: bool = True

    @property
    def value(self) -> float:
        """The figure over all items; nan without items."""
        if len(self.columns) == 0:
            return float("nan")
        return float(self.statistic(self.columns.sum(axis=0, keepdims=True))[0])


def mean(
    name: str, values: NDArray[np.float64], *, higher_is_better: bool | None = True
) -> Measure:
    """Return the mean of one value per item."""
    columns = np.stack([values, np.ones_like(values)], axis=1)
    return Measure(name, columns, ratio_of_sums, higher_is_better)


def proportion(
    name: str, hits: NDArray[np.bool_], *, higher_is_better: bool | None = True
) -> Measure:
    """Return the share of the items that are hits."""
    columns = np.stack([hits, np.ones(len(hits))], axis=1).astype(np.float64)
    return Measure(name, columns, ratio_of_sums, higher_is_better, is_proportion=True)


def ratio(
    name: str,
    numerators: NDArray[np.float64],
    denominators: NDArray[np.float64],
    *,
    higher_is_better: bool | None = True,
) -> Measure:
    """Return the sum of numerators over the sum of denominators; 0 where that is 0."""
    return Measure(
        name, np.stack([numerators, denominators], axis=1), ratio_of_sums, higher_is_better
    )


def ratio_of_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the first column over the second; 0 where that is 0."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] != 0)


# -------------------------------------------------------------------------------------------------
# Intervals of figures whose items come in groups, as the notes of one patient.
#
# Items of a group are not independent: whole groups are drawn.
# -------------------------------------------------------------------------------------------------

WILSON = "wilson"
BOOTSTRAP = "bootstrap over groups"
ONE_GROUP = "none: one group"
TOO_FEW = "none: fewer than 5 groups count"
NO_SCATTER = "none: no group differs"
NOT_FINITE = "none: not finite in every resample"
NOT_SMOOTH = "none: above 0 by chance"
# Of a label, for instance, the true ones, those answered and the hits. With fewer the interval is
# too narrow, because a resample often has none or all of them (benchmarks/paired_tests.py).
MIN_COUNTING = 5
# Bounds that differ by less than this share are equal: sums depend on their order.
_ROUNDING = 1e-12


def group_columns(measure: Measure, groups: Sequence[str]) -> Measure:
    """Return the figure with one row of columns per group, in the order of the groups' names.

    It remains a proportion with a binomial law only if every item is a group of its own.

    Raises:
        ValueError: there is not one group name per item.
    """
    if len(groups) != len(measure.columns):
        raise ValueError(
            f"{measure.name} has {len(measure.columns)} items and {len(groups)} names of groups"
        )
    names, index = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    columns = np.zeros((len(names), *measure.columns.shape[1:]))
    np.add.at(columns, index, measure.columns)
    is_proportion = measure.is_proportion and len(names) == len(groups)
    return replace(measure, columns=columns, is_proportion=is_proportion)


def interval_of(
    measure: Measure, groups: Sequence[str], bootstrap: Bootstrap
) -> tuple[Interval, str]:
    """Return the figure with its interval, and how that was made.

    The Wilson score interval for the share of hits among independent items, or among those of them
    that count (recall, precision), at most one in a group; else the expanded percentile bootstrap
    over groups. The bounds are nan where there is none: one group says nothing about others, and
    neither do resamples that are all alike (a figure of 0, because no item has what is counted) or
    not all finite, or a sum in which fewer than MIN_COUNTING groups take part. A figure that is not
    smooth is above 0 by chance, and its resamples are above it.

    Raises:
        ValueError: without items, or without one group name per item.
    """
    return interval_over_rows(group_columns(measure, groups), bootstrap)


def interval_over_rows(grouped: Measure, bootstrap: Bootstrap) -> tuple[Interval, str]:
    """Return the same as interval_of, of a figure whose rows are the groups."""
    if _counts_hits(grouped):
        hits, counted = (int(total) for total in grouped.columns.sum(axis=0))
        return wilson_interval(hits, counted, bootstrap.level), WILSON
    drawn = drawn_interval(grouped, bootstrap)
    return drawn.interval, drawn.method


@dataclass(frozen=True)
class Drawn:
    """A figure with its bootstrap interval, or the reason why it has none.

    Attributes:
        interval: The bounds are nan where there is none.
        method: BOOTSTRAP, or the reason.
        standard_error: Standard deviation of the resamples; nan where nothing was drawn.
    """

    interval: Interval
    method: str
    standard_error: float = math.nan


def drawn_interval(grouped: Measure, bootstrap: Bootstrap) -> Drawn:
    """Return a figure whose rows are the groups with its interval, if it has one."""
    without = Interval(grouped.value, math.nan, math.nan)
    reason = why_no_interval(grouped)
    if reason is not None:
        return Drawn(without, reason)
    values = bootstrap_values(grouped.columns, grouped.statistic, bootstrap)
    if not np.isfinite(values).all():
        return Drawn(without, NOT_FINITE)
    num_groups = len(grouped.columns)
    found = percentile_interval(without.value, values, bootstrap.level, num_groups)
    if found.high - found.low <= _ROUNDING * max(abs(found.low), abs(found.high)):
        return Drawn(without, NO_SCATTER, 0.0)
    if not _do_enough_count(grouped):
        return Drawn(without, TOO_FEW)
    # Resamples scatter too little by this factor.
    error = float(values.std()) * math.sqrt(num_groups / (num_groups - 1))
    return Drawn(found, BOOTSTRAP, error)


def why_no_interval(grouped: Measure) -> str | None:
    """Return the reason for which groups cannot tell the scatter of a figure, or None."""
    if len(grouped.columns) == 1:
        return ONE_GROUP
    if not grouped.is_smooth:
        return NOT_SMOOTH
    return None if math.isfinite(grouped.value) else NOT_FINITE


def _do_enough_count(grouped: Measure) -> bool:
    """Whether MIN_COUNTING groups take part in each sum, and as many differ if most are alike."""
    _, counts = np.unique(grouped.columns, axis=0, return_counts=True)
    num_groups, num_alike = len(grouped.columns), int(counts.max())
    num_unlike = num_groups - num_alike if 2 * num_alike > num_groups else num_groups
    num_counted = int((grouped.columns != 0).sum(axis=0).min())
    return min(num_unlike, num_counted) >= MIN_COUNTING


def _counts_hits(measure: Measure) -> bool:
    """Whether a figure is hits over what counts, both 0 or 1 of every group."""
    columns = measure.columns
    if measure.is_proportion:
        return True
    if measure.statistic is not ratio_of_sums or not np.isin(columns, (0, 1)).all():
        return False
    # Without any hit F1 looks so too, and is no share of anything.
    return bool(columns[:, 0].any() and (columns[:, 0] <= columns[:, 1]).all())


def wilson_interval(hits: int, num_items: int, level: float) -> Interval:
    """Return a proportion with its score interval, which holds at 0 and 1 and for few items.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22,
    1927; without continuity correction.

    Raises:
        ValueError: without items.
    """
    if num_items < 1:
        raise ValueError("an interval needs at least one item")
    ratio = hits / num_items
    z2 = float(ndtri((1 + level) / 2)) ** 2
    centre = (ratio + z2 / (2 * num_items)) / (1 + z2 / num_items)
    half = math.sqrt(z2 * (ratio * (1 - ratio) + z2 / (4 * num_items)) / num_items)
    half /= 1 + z2 / num_items
    # Rounding must not take the bounds past the value at 0 and 1, where they touch it.
    return Interval(ratio, min(ratio, max(0.0, centre - half)), max(ratio, min(1.0, centre + half)))


# -------------------------------------------------------------------------------------------------
# The plain mean of one figure over several sets of items: each set counts the same.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Combined:
    """A figure over several sets, and the names of the groups of all items, set by set."""

    measure: Measure
    units: list[str]


def mean_over(measures: Sequence[Measure], units: Sequence[Sequence[str]]) -> Combined:
    """Return the mean of the figures of several sets, ready to be bootstrapped over all groups.

    Groups of different sets are other groups, whatever their names.

    Raises:
        ValueError: There are no sets, or not one list of units for each.
    """
    if not measures or len(measures) != len(units):
        raise ValueError(f"{len(measures)} figures need as many lists of units, got {len(units)}")
    widths = [measure.columns.shape[1] for measure in measures]
    ends = np.cumsum(widths)
    rows = sum(len(measure.columns) for measure in measures)
    columns = np.zeros((rows, int(ends[-1])))
    row = 0
    for measure, end, width in zip(measures, ends, widths, strict=True):
        columns[row : row + len(measure.columns), end - width : end] = measure.columns
        row += len(measure.columns)

    def statistic(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = [
            measure.statistic(sums[:, end - width : end])
            for measure, end, width in zip(measures, ends, widths, strict=True)
        ]
        found: NDArray[np.float64] = np.mean(parts, axis=0)
        return found

    first = measures[0]
    named = [f"{number}:{unit}" for number, found in enumerate(units) for unit in found]
    return Combined(Measure(first.name, columns, statistic, first.higher_is_better), named)
