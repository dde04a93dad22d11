"""Accuracy, F1, precision and recall of labels, as sums of per-item counts.

An answer that stands for no label (None) is wrong for the class of its item and counts for no other
class, so it lowers accuracy and recall and never adds a class. The official evaluator of BioASQ
counts a wrong yes/no answer as one for the other label; the two agree wherever every answer stands
for a label, which a valid submission needs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from biomamba.metrics.measure import Measure, proportion, ratio

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
