"""Lists of answers against groups of synonyms: the figures of BioASQ list questions.

Source: BioASQ/Evaluation-Measures, QuestionAnswerEvaluator.calculatePRFforListQuestions, and its
measured behaviour. Texts are equal as in ranking.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biomamba.metrics.measure import Measure, mean
from biomamba.metrics.ranking import Groups


@dataclass(frozen=True)
class ListScore:
    """Precision, recall and F1 of one question; all 0 without answers."""

    precision: float = 0.0
    recall: float = 0.0
    f1: float = 0.0


def list_score(groups: Groups, answers: Sequence[str]) -> ListScore:
    """Score the answers to one question.

    Each answer takes the first group that is left and holds it; an answer that finds none, as a
    repeated one, is wrong. A group that none took is missed, unless an answer not yet used for
    another such group is in it too (a text may stand in two groups).
    """
    if not answers:
        return ListScore()
    left = [{text.lower() for text in group} for group in groups]
    given = [answer.lower() for answer in answers]
    num_hits = sum(_take(left, answer) for answer in given)
    num_missed = sum(not _take_answer(given, group) for group in left)
    precision = num_hits / len(answers)
    recall = num_hits / (num_hits + num_missed) if num_hits else 0.0
    f1 = 2 * precision * recall / (precision + recall) if num_hits else 0.0
    return ListScore(precision, recall, f1)


def list_measures(references: Sequence[Groups], answers: Sequence[Sequence[str]]) -> list[Measure]:
    """Return the means over questions: `list_f1`, `list_precision` and `list_recall`."""
    scores = [list_score(*pair) for pair in zip(references, answers, strict=True)]
    return [
        mean("list_f1", np.array([score.f1 for score in scores], dtype=np.float64)),
        mean("list_precision", np.array([score.precision for score in scores], dtype=np.float64)),
        mean("list_recall", np.array([score.recall for score in scores], dtype=np.float64)),
    ]


def _take(groups: list[set[str]], answer: str) -> bool:
    """Remove the first group that holds an answer."""
    for index, group in enumerate(groups):
        if answer in group:
            del groups[index]
            return True
    return False


def _take_answer(answers: list[str], group: set[str]) -> bool:
    """Remove the first answer that a group holds."""
    for index, answer in enumerate(answers):
        if answer in group:
            del answers[index]
            return True
    return False
