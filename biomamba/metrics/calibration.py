"""Whether probabilities of answers mean what they say, as sums over items."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from biomamba.metrics.measure import Measure, mean
from biomamba.runtime.numbers import check_whole


def calibration_error(
    truths: Sequence[str], scores: Sequence[Mapping[str, float]], *, num_bins: int = 10
) -> Measure:
    """Return the expected calibration error of the most probable answer.

    Items are sorted into bins of equal width by the probability of that answer; the figure is the
    mean over items of |share of hits - mean probability| of their bin. It depends on num_bins and
    is above 0 by chance in a small sample.
    Source: Guo et al. 2017, arXiv 1706.04599, eq. 3.
    """
    check_whole("num_bins", num_bins)
    _check(truths, scores)
    columns = np.zeros((len(scores), num_bins + 1))
    for row, (truth, score) in enumerate(zip(truths, scores, strict=True)):
        answer, confidence = max(score.items(), key=lambda pair: pair[1])
        place = min(int(confidence * num_bins), num_bins - 1)
        columns[row, place] = (answer == truth) - confidence
        columns[row, -1] = 1
    return Measure("calibration_error", columns, _mean_gap, higher_is_better=False, is_smooth=False)


def brier_score(truths: Sequence[str], scores: Sequence[Mapping[str, float]]) -> Measure:
    """Return the mean squared distance of the probabilities of all answers from the truth, 0 to 2.

    Source: Brier 1950, Verification of forecasts expressed in terms of probability, eq. 2.
    """
    _check(truths, scores)
    distances = [
        sum((value - (name == truth)) ** 2 for name, value in score.items())
        for truth, score in zip(truths, scores, strict=True)
    ]
    return mean("brier_score", np.array(distances, dtype=np.float64), higher_is_better=False)


def calibration_measures(
    truths: Sequence[str], scores: Sequence[Mapping[str, float]]
) -> list[Measure]:
    """Return both figures, or none unless every item has probabilities."""
    if not all(scores):
        return []
    return [calibration_error(truths, scores), brier_score(truths, scores)]


def _check(truths: Sequence[str], scores: Sequence[Mapping[str, float]]) -> None:
    """Raise ValueError unless each item has probabilities, that of its truth among them."""
    for index, (truth, score) in enumerate(zip(truths, scores, strict=True)):
        if truth not in score or abs(sum(score.values()) - 1) > 1e-3 or min(score.values()) < 0:
            raise ValueError(f"scores of item {index} are no probabilities of all answers")


def _mean_gap(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    gaps = np.abs(sums[:, :-1]).sum(axis=1)
    shares: NDArray[np.float64] = np.zeros(len(sums))
    np.divide(gaps, sums[:, -1], out=shares, where=sums[:, -1] != 0)
    return shares
