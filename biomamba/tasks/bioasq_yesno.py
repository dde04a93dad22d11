"""BioASQ yes/no questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from biomamba.data.document import Reject
from biomamba.metrics.measure import Measure
from biomamba.tasks.bioasq_questions import Question
from biomamba.tasks.bioasq_task import BioASQTask, parts_of
from biomamba.tasks.item import Item
from biomamba.tasks.label_figures import label_figures
from biomamba.tasks.prediction import Prediction
from biomamba.tasks.task import ChooseLabel
from biomamba.tasks.task_rows import declared_label

LABELS = ("yes", "no")


@dataclass(frozen=True, kw_only=True)
class BioASQYesNo(BioASQTask):
    """Questions that are answered by yes or no, with the snippets that answer them."""

    question_type: ClassVar[str] = "yesno"

    name: str = "bioasq_yesno"
    protocol: str = "bioasq-b-yesno"

    @property
    def answer(self) -> ChooseLabel:
        """Yes or no."""
        return ChooseLabel(LABELS)

    def item_of(self, question: Question) -> Item | Reject:
        """Turn a question into an item.

        Raises:
            DataError: The answer is neither yes nor no.
        """
        given = [text.strip().rstrip(".").lower() for group in question.answers for text in group]
        answers = list(dict.fromkeys(given))
        where = f"{question.file}: question {question.id}"
        value = answers[0] if len(answers) == 1 else answers
        label = declared_label(value, LABELS, where, key="exact_answer")
        return Item(
            id=question.id,
            parts=parts_of(question),
            target=label,
            label=label,
            facts={"file": question.file},
        )

    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        """Return macro-F1, the official main figure, accuracy and what stands behind them."""
        return label_figures(LABELS, items, predictions, main="macro_f1")
