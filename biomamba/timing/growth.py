"""How time grows with length: an exponent, and what is fixed, linear and quadratic in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

LEVEL = 0.95
MIN_LENGTHS = 2
_MIN_FOR_INTERVAL = 3
_MIN_FOR_PARTS = 4  # three parts meet any three points


@dataclass(frozen=True)
class Parts:
    """Time as fixed + linear * n + quadratic * n**2, none of them negative.

    Attributes:
        worst_error: The largest part by which the sum misses a time.
    """

    fixed: float
    linear: float
    quadratic: float
    worst_error: float

    def at(self, length: float) -> float:
        """Return the time at a length."""
        return self.fixed + self.linear * length + self.quadratic * length**2

    def quadratic_share(self, length: float) -> float:
        """Return what part of the time at a length is quadratic."""
        return self.quadratic * length**2 / self.at(length)


@dataclass(frozen=True)
class Growth:
    """How a time grows over lengths.

    Attributes:
        exponent: Slope of log time over log length.
        low: Lower end of its interval; None below three lengths.
        high: Upper end.
        parts: None below four lengths.
    """

    exponent: float
    low: float | None
    high: float | None
    parts: Parts | None


def fit_growth(lengths: Sequence[int], seconds: Sequence[float]) -> Growth:
    """Fit an exponent and parts to one time (the median of its repeats) per length.

    The interval is Student's, for the slope of a straight line through log times: its residuals
    hold the noise of the machine and the bend of a curve that is no power, and both widen it. The
    parts minimise the sum of squared relative errors.

    Raises:
        ValueError: There are fewer than two lengths, or a time is not positive.
    """
    if len(set(lengths)) < MIN_LENGTHS or len(lengths) != len(seconds) or min(seconds) <= 0:
        raise ValueError("a growth needs positive times of at least two lengths")
    x, y = np.log(lengths), np.log(seconds)
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    if len(lengths) < _MIN_FOR_INTERVAL:
        return Growth(slope, None, None, None)
    freedom = len(lengths) - 2
    error = math.sqrt(np.square(y - slope * x).sum() / freedom / (x @ x))
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    parts = _parts(lengths, seconds) if len(lengths) >= _MIN_FOR_PARTS else None
    return Growth(slope, slope - half, slope + half, parts)


def _parts(lengths: Sequence[int], seconds: Sequence[float]) -> Parts:
    n: NDArray[np.float64] = np.asarray(lengths, dtype=np.float64)
    t: NDArray[np.float64] = np.asarray(seconds, dtype=np.float64)
    longest = n.max()
    x = n / longest
    columns = np.stack([np.ones_like(x), x, x**2], axis=1) / t[:, None]
    weights, _ = optimize.nnls(columns, np.ones_like(t))
    errors = np.abs(columns @ weights - 1)
    fixed, linear, quadratic = (float(weight) for weight in weights)
    return Parts(
        fixed, linear / float(longest), quadratic / float(longest) ** 2, float(errors.max())
    )


def crossings(
    lengths: Sequence[int], ours: Sequence[float], theirs: Sequence[float]
) -> list[float]:
    """Return the lengths at which two curves cross, on straight lines in a log-log plot."""
    gaps = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    found = []
    for place in range(len(gaps) - 1):
        left, right = gaps[place], gaps[place + 1]
        if left * right < 0:
            begin, end = math.log(lengths[place]), math.log(lengths[place + 1])
            found.append(math.exp(begin + (end - begin) * left / (left - right)))
    return found
