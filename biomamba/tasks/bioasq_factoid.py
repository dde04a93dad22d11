"""BioASQ factoid questions: up to five candidates, the best one first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from biomamba.data.document import Reject
from biomamba.metrics.measure import Measure, proportion
from biomamba.metrics.ranking import MAX_CANDIDATES, ranking_measures
from biomamba.runtime.numbers import check_whole
from biomamba.tasks.bioasq_questions import Question
from biomamba.tasks.bioasq_task import BioASQTask, parts_of
from biomamba.tasks.item import Item
from biomamba.tasks.label_figures import in_order
from biomamba.tasks.prediction import Prediction
from biomamba.tasks.task import WriteText
from biomamba.tasks.written_answers import candidates_of, check_cleaning, one_line

OFFICIAL = "bioasq-b-factoid"


@dataclass(frozen=True, kw_only=True)
class BioASQFactoid(BioASQTask):
    """Questions that are answered by a name or a number, from golden files or the form of SQuAD.

    Attributes:
        max_new_tokens: Most tokens of an answer.
        num_candidates: How many candidates are asked for, 1 to 5.
        cleaning: `none`, or `full_stop` to take a final full stop off every candidate.
    """

    question_type: ClassVar[str] = "factoid"

    max_new_tokens: int = 32
    num_candidates: int = MAX_CANDIDATES
    cleaning: str = "none"
    name: str = "bioasq_factoid"
    protocol: str = OFFICIAL

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cleaning(self.cleaning, self.protocol, OFFICIAL)
        check_whole("num_candidates", self.num_candidates, at_most=MAX_CANDIDATES)

    @property
    def answer(self) -> WriteText:
        """One line."""
        return WriteText(self.max_new_tokens, stop=("\n",), num_candidates=self.num_candidates)

    def item_of(self, question: Question) -> Item | Reject:
        """Turn a question into an item; its first answer is the target."""
        return Item(
            id=question.id,
            parts=parts_of(question),
            target=one_line(question.answers[0][0]),
            references=question.answers,
            facts={"file": question.file},
        )

    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        """Return the reciprocal rank, the official main figure, and both accuracies."""
        ordered = in_order(items, predictions)
        candidates = [candidates_of(prediction, self.cleaning) for prediction in ordered]
        empty = np.array([not found for found in candidates], dtype=np.bool_)
        return [
            *ranking_measures([item.references for item in items], candidates),
            proportion("unparsable_ratio", empty, higher_is_better=False),
        ]
