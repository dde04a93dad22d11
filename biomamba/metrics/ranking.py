"""Lists and ranked candidates against groups of synonyms: BioASQ factoid and list measures.

Source: BioASQ/Evaluation-Measures, EvaluatorTask1b and QuestionAnswerEvaluator, and their measured
behavior: two texts are equal if they are so in lower case, character by character, so that a space
at an end or a full stop makes them differ. That evaluator takes any number of candidates, although
the rules allow five; here all beyond five are left out, as a submitter has to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biomamba.metrics.measure import Measure, mean, proportion

MAX_CANDIDATES = 5
Groups = Sequence[Sequence[str]]  # texts of one group mean the same


def rank_of(groups: Groups, candidates: Sequence[str]) -> int | None:
    """Return the place, from 1, of the first right one among the first five candidates."""
    right = {text.lower() for group in groups for text in group}
    for place, candidate in enumerate(candidates[:MAX_CANDIDATES], start=1):
        if candidate.lower() in right:
            return place
    return None


def ranking_measures(
    references: Sequence[Groups], candidates: Sequence[Sequence[str]]
) -> list[Measure]:
    """Return `mrr`, `strict_accuracy` (the first candidate) and `lenient_accuracy` (any of five).

    A question without candidates is a wrong one.
    """
    ranks = [rank_of(*pair) for pair in zip(references, candidates, strict=True)]
    reciprocal = np.array([0.0 if rank is None else 1 / rank for rank in ranks])
    return [
        mean("mrr", reciprocal),
        proportion("strict_accuracy", reciprocal == 1),
        proportion("lenient_accuracy", reciprocal > 0),
    ]


# -------------------------------------------------------------------------------------------------
# Lists of answers against groups of synonyms: the figures of BioASQ list questions.
#
# Source: BioASQ/Evaluation-Measures, QuestionAnswerEvaluator.calculatePRFforListQuestions, and its
# measured behavior. Texts are equal as in ranking.py.
# -------------------------------------------------------------------------------------------------


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
    another such group is in it too (a text may be in two groups).
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
