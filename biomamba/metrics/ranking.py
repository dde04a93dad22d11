"""Ranked candidates against groups of synonyms: the figures of BioASQ factoid questions.

Source: BioASQ/Evaluation-Measures, EvaluatorTask1b and QuestionAnswerEvaluator, and their measured
behaviour: two texts are equal if they are so in lower case, character by character, so that a space
at an end or a full stop makes them differ. That evaluator takes any number of candidates, although
the rules allow five; here all beyond five are left out, as a submitter has to.
"""

from collections.abc import Sequence

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
