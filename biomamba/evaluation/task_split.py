"""The items of a task that are evaluated; the only place where a test split is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from biomamba.data.document import document_key
from biomamba.runtime.errors import DataError
from biomamba.tasks.prompt import Item
from biomamba.tasks.task import ChooseLabel, Task
from biomamba.training.lineage import SplitFiles

TEST = "test"


@dataclass(frozen=True)
class TaskSplit:
    """A task and one of its splits.

    Attributes:
        task: The task.
        split: `test` or `val`.
        max_items: The first so many by a hash of their id; None: all.
    """

    task: Task
    split: str
    max_items: int | None = None

    @cached_property
    def _found(self) -> tuple[list[Item], Mapping[str, int]]:
        task, split = self.task, self.split
        found = task.held_out() if split == TEST else task.items(split)
        items = list(found.items)
        if not items:
            raise DataError(f"task {task.name} has no items in its split {split}")
        if len({item.id for item in items}) < len(items):
            raise DataError(f"task {task.name}: two items of its split {split} have the same id")
        if self.max_items is not None and self.max_items < len(items):
            keys = sorted(document_key(item.id) for item in items)[: self.max_items]
            items = [item for item in items if document_key(item.id) <= keys[-1]]
        return items, dict(sorted(found.rejects.items()))

    @property
    def items(self) -> Sequence[Item]:
        """The items that are evaluated, in the order of the task.

        Raises:
            DataError: There are none, or two share an id.
        """
        return self._found[0]

    @property
    def rejects(self) -> Mapping[str, int]:
        """How many rows of the split could not become an item, by reason."""
        return self._found[1]

    @cached_property
    def files(self) -> Mapping[str, str]:
        """Return the sha256 of every file of the task, hashed once."""
        return self.task.files

    @cached_property
    def tested(self) -> SplitFiles:
        """The files of the items, to be compared with what was kept out of training data."""
        task, split = self.task, self.split
        return SplitFiles(split, task.split_files(split), task.split_rule(split))

    @cached_property
    def training_labels(self) -> Sequence[str]:
        """The labels of the training split; empty if the task has none.

        Raises:
            DataError: An item or group of the test split is in training or validation too.
        """
        if not isinstance(self.task.answer, ChooseLabel):
            return []
        training = self.task.items("train").items
        if self.split == TEST:
            known = {item.unit for item in (*training, *self.task.items("val").items)}
            shared = sorted({item.unit for item in self.items} & known)
            if shared:
                raise DataError(
                    f"task {self.task.name}: {len(shared)} of its test items or groups are in "
                    "training or validation too; the figures would not be of unseen items"
                )
        return [item.label for item in training if item.label is not None]
