"""Intervals of figures whose items come in groups, as the notes of one patient.

Items of a group are not independent: whole groups are drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from biomamba.metrics.interval import Bootstrap, Interval, bootstrap_values, percentile_interval
from biomamba.metrics.measure import Measure, ratio_of_sums

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
    smooth is above 0 by chance, and its resamples lie above it.

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
