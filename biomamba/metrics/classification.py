"""Accuracy, F1, precision, recall and calibration of labels, as sums of per-item counts.

An answer that stands for no label (None) is wrong for the class of its item and counts for no other
class, so it lowers accuracy and recall and never adds a class. The official evaluator of BioASQ
counts a wrong yes/no answer as one for the other label; the two agree wherever every answer stands
for a label, which a valid submission needs.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from biomamba.metrics.measure import Measure, mean, proportion, ratio
from biomamba.runtime.numbers import check_whole

Counts = NDArray[np.float64]
Answers = Sequence[str | None]


def accuracy(truths: Sequence[str], answers: Answers) -> Measure:
    """Return the share of the items whose answer is the true label."""
    hits = [truth == answer for truth, answer in zip(truths, answers, strict=True)]
    return proportion("accuracy", np.array(hits, dtype=np.bool_))


def unparsable_ratio(answers: Answers) -> Measure:
    """Return the share of the answers that stand for no label."""
    missing = np.array([answer is None for answer in answers], dtype=np.bool_)
    return proportion("unparsable_ratio", missing, higher_is_better=False)


def macro_f1(labels: Sequence[str], truths: Sequence[str], answers: Answers) -> Measure:
    """Return the plain mean of the F1 of all declared labels.

    A label that is neither true nor answered anywhere has F1 0, as in scikit-learn with `labels`.
    """
    hits, answered, true = _counts(labels, truths, answers)
    size = len(labels)

    def statistic(sums: Counts) -> Counts:
        means: Counts = _divide(2 * sums[:, :size], sums[:, size:]).mean(axis=1)
        return means

    return Measure("macro_f1", np.concatenate([hits, answered + true], axis=1), statistic)


def per_label(labels: Sequence[str], truths: Sequence[str], answers: Answers) -> list[Measure]:
    """Return `f1_<label>`, `precision_<label>` and `recall_<label>`; 0 where nothing is divided."""
    hits, answered, true = _counts(labels, truths, answers)
    measures = []
    for index, label in enumerate(labels):
        hit, chosen, there = hits[:, index], answered[:, index], true[:, index]
        name = label.replace(" ", "_")
        measures += [
            ratio(f"f1_{name}", 2 * hit, chosen + there),
            ratio(f"precision_{name}", hit, chosen),
            ratio(f"recall_{name}", hit, there),
        ]
    return measures


def label_measures(
    labels: Sequence[str], truths: Sequence[str], answers: Answers, *, main: str = "accuracy"
) -> list[Measure]:
    """Return all figures of a task of labels, the main one (`accuracy` or `macro_f1`) first."""
    first = [accuracy(truths, answers), macro_f1(labels, truths, answers)]
    first.sort(key=lambda measure: measure.name != main)
    return [*first, unparsable_ratio(answers), *per_label(labels, truths, answers)]


def _counts(
    labels: Sequence[str], truths: Sequence[str], answers: Answers
) -> tuple[Counts, Counts, Counts]:
    """Return hits, answers and truths as (items, labels) of 0 and 1.

    Raises:
        ValueError: A truth or an answer is not among the labels.
    """
    odd = sorted({*truths, *(answer for answer in answers if answer is not None)} - set(labels))
    if odd:
        raise ValueError(f"{odd} are not among the labels {list(labels)}")
    names = np.array(labels, dtype=object)
    true = np.array(truths, dtype=object).reshape(-1, 1) == names
    answered = np.array(answers, dtype=object).reshape(-1, 1) == names
    return (
        (true & answered).astype(np.float64),
        answered.astype(np.float64),
        true.astype(np.float64),
    )


def _divide(numerators: Counts, denominators: Counts) -> Counts:
    return np.divide(
        numerators, denominators, out=np.zeros_like(numerators), where=denominators != 0
    )


# -------------------------------------------------------------------------------------------------
# Whether probabilities of answers mean what they say, as sums over items.
# -------------------------------------------------------------------------------------------------


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
