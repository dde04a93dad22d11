"""Several tests in one table: p values that bound the chance of any false finding."""

from collections.abc import Sequence

import numpy as np


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
