"""The plain mean of one figure over several sets of items: each set counts the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomamba.metrics.measure import Measure


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
