"""One question or note of a task, and what a file of them gave."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that a model answers.

    Attributes:
        id: Unique within the task, over all splits.
        parts: The texts that the prompt of the task names, as `question` and `context`.
        target: The text to be produced, without a leading space; fine-tuning learns it.
        label: One of the labels of the task; None where the answer is a free text.
        references: What an answer is compared with: groups of texts that mean the same. A label
            task needs none.
        options: Answers to choose from, differing from item to item; empty in other tasks.
        option_parts: The parts that each option replaces, where the options stand in the prompt and
            the target, the same for all, follows them; empty where the options are the answers.
        group: Items of one group stay in one split and are drawn together by a bootstrap, as the
            notes of one patient; None: the item is a group of its own.
        facts: Short values that are not texts of the item, as the year; for slices of a table.
    """

    id: str
    parts: Mapping[str, str]
    target: str
    label: str | None = None
    references: Sequence[Sequence[str]] = ()
    options: Sequence[str] = ()
    option_parts: Sequence[Mapping[str, str]] = ()
    group: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """Name of what a bootstrap draws."""
        return self.id if self.group is None else self.group


@dataclass(frozen=True)
class Items:
    """The items of one split, and how many rows could not become one, by reason."""

    items: Sequence[Item]
    rejects: Counter[str] = field(default_factory=Counter)
