"""Bootstrap intervals over documents.

Tokens of one document are not independent, so whole documents are drawn. Statistics are functions
of column sums (ratios, differences of ratios), which lets thousands of resamples be one matrix
product of draw counts and columns.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from biomamba.runtime.numbers import check_number, check_seed, check_whole

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
    normal law where Student's t is due. So the quantiles lie further out, such that the interval of
    a mean is about as wide as its t interval.
    Source: Hesterberg, What teachers should know about the bootstrap, American Statistician 69,
    2015, section 3.3 (expanded percentile interval).
    """
    freedom = num_documents - 1
    tail = float(ndtr(stdtrit(freedom, (1 - level) / 2) * math.sqrt(num_documents / freedom)))
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
