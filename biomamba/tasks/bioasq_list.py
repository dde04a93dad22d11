"""BioASQ list questions: all names that answer a question."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from biomamba.data.document import Reject
from biomamba.metrics.answer_lists import list_measures
from biomamba.metrics.measure import Measure, proportion
from biomamba.tasks.bioasq_questions import Question
from biomamba.tasks.bioasq_task import BioASQTask, parts_of
from biomamba.tasks.item import Item
from biomamba.tasks.label_figures import in_order
from biomamba.tasks.prediction import Prediction
from biomamba.tasks.task import WriteText
from biomamba.tasks.written_answers import check_cleaning, cleaned, one_line

OFFICIAL = "bioasq-b-list"
_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\(?\d{1,2}[.)])\s+")


@dataclass(frozen=True, kw_only=True)
class BioASQList(BioASQTask):
    """Questions that are answered by a list, written with one entry per line.

    Attributes:
        max_new_tokens: Most tokens of all entries together.
        cleaning: `none`, or `full_stop` to take a final full stop off every entry.
    """

    question_type: ClassVar[str] = "list"

    max_new_tokens: int = 256
    cleaning: str = "none"
    name: str = "bioasq_list"
    protocol: str = OFFICIAL

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cleaning(self.cleaning, self.protocol, OFFICIAL)

    @property
    def answer(self) -> WriteText:
        """Lines, up to an empty one."""
        return WriteText(self.max_new_tokens, stop=("\n\n",))

    def item_of(self, question: Question) -> Item | Reject:
        """Turn a question into an item; the first text of each group is a line of the target."""
        lines = [one_line(group[0]) for group in question.answers]
        return Item(
            id=question.id,
            parts=parts_of(question),
            target="\n".join(lines),
            references=question.answers,
            facts={"file": question.file},
        )

    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        """Return F1 per question, the official main figure, precision and recall."""
        ordered = in_order(items, predictions)
        answers = [parse_list(prediction.text, self.cleaning) for prediction in ordered]
        empty = np.array([not found for found in answers], dtype=np.bool_)
        return [
            *list_measures([item.references for item in items], answers),
            proportion("unparsable_ratio", empty, higher_is_better=False),
        ]


def parse_list(text: str, cleaning: str = "none") -> list[str]:
    """Return the entries of a list that a model wrote, repeated ones once.

    Several lines are an entry each; a single line is cut at `;`. Bullets and numbers before an
    entry are dropped. Commas are part of names and cut nothing.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    entries = lines if len(lines) > 1 else text.split(";")
    found: dict[str, str] = {}
    for entry in entries:
        name = cleaned(_BULLET.sub("", entry), cleaning)
        found.setdefault(name.lower(), name)
    return [name for name in found.values() if name]
