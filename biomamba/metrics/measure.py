"""A figure over items that can be bootstrapped: sums of columns, and a statistic of the sums.

Accuracy, macro-F1 (from counts of the confusion matrix), calibration (from sums per bin), corpus
BLEU (from n-gram counts) and means of per-item scores all have this form.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomamba.metrics.interval import Statistic


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
            a gap is 0: its resamples lie above it, and no interval or test of them holds.
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
