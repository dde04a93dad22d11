"""Heads of label tasks: from the training and validation items of a task to a fitted head."""

from collections.abc import Callable, Sequence

import numpy as np

from biomamba.evaluation.answer_model import AnswerModel
from biomamba.evaluation.answer_options import AnswerOptions
from biomamba.evaluation.answer_progress import AnswerProgress
from biomamba.evaluation.asking import Questions, require_features
from biomamba.evaluation.label_head import LabelHead, LabelledFeatures, fit_label_head
from biomamba.runtime.errors import DataError
from biomamba.tasks.item import Item
from biomamba.tasks.task import ChooseLabel, Task

TRAIN, VAL = "train", "val"


class Heads:
    """The heads of an evaluation, each fitted when it is first wanted.

    Every rank fits all of them, on the same features in the same order, so they are the same bit
    for bit; the headers of the answers hold a rank to it.

    Args:
        options: How models are asked.

    Raises:
        ConfigError: A model has no hidden states to give.
    """

    def __init__(
        self, models: Sequence[AnswerModel], tasks: Sequence[Task], options: AnswerOptions
    ) -> None:
        self._options = options
        self._fitted: dict[tuple[str, str], LabelHead] = {}
        if any(self._wants(task) for task in tasks):
            for model in models:
                require_features(model)

    def of(
        self, task: Task, model: AnswerModel, progress: AnswerProgress | None = None
    ) -> LabelHead | None:
        """Return the head of a model for a task; None where the task is asked otherwise."""
        if not self._wants(task):
            return None
        key = (task.name, model.label)
        if key not in self._fitted:
            self._fitted[key] = fit_head(task, model, self._options, progress)
        return self._fitted[key]

    def _wants(self, task: Task) -> bool:
        return self._options.head is not None and isinstance(task.answer, ChooseLabel)


def fit_head(
    task: Task,
    model: AnswerModel,
    options: AnswerOptions,
    progress: AnswerProgress | None = None,
) -> LabelHead:
    """Fit the head of a model for a label task; no test item is read.

    Raises:
        DataError: There are no training or validation items, or not of every label.
    """
    assert isinstance(task.answer, ChooseLabel)
    assert options.head is not None
    splits = {split: _labelled_items(task, split) for split in (TRAIN, VAL)}
    advance: Callable[[int], None] = _ignore
    if progress is not None:
        num_items = sum(map(len, splits.values()))
        advance = progress.line(f"{task.name}.{model.label} head", num_items, 0).advance
    questions = Questions(task, model, options)
    train, val = (_features(questions, items, advance) for items in splits.values())
    return fit_label_head(task.answer.labels, train, val, options.head)


def _labelled_items(task: Task, split: str) -> Sequence[Item]:
    assert isinstance(task.answer, ChooseLabel)
    items = task.items(split).items
    odd = sum(item.label not in task.answer.labels for item in items)
    if odd or not items:
        found = f"{odd} of {len(items)} items without one of its labels" if odd else "no items"
        raise DataError(
            f"task {task.name} has {found} in its split {split}, which a head needs; ask with "
            "answers=likelihood"
        )
    return items


def _features(
    questions: Questions, items: Sequence[Item], advance: Callable[[int], None]
) -> LabelledFeatures:
    """Return the features of items in an order that depends on the items alone."""
    assert isinstance(questions.task.answer, ChooseLabel)
    batches = questions.batches(items)
    rows = []
    for batch in batches:
        rows.append(questions.features(batch)[0])
        advance(len(batch))
    numbers = {label: number for number, label in enumerate(questions.task.answer.labels)}
    labels = [numbers[item.label or ""] for batch in batches for item in batch]
    return LabelledFeatures(np.concatenate(rows), np.array(labels, dtype=np.int64))


def _ignore(num_items: int) -> None:
    """Show nothing."""
