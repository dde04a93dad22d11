"""The items that are evaluated."""

from collections.abc import Callable
from typing import Any

import pytest

from biomamba.evaluation.task_split import TaskSplit
from biomamba.runtime.errors import DataError
from biomamba.tasks.task import WriteText

Build = Callable[..., Any]


def test_each_split_is_that_of_the_task(toy_task: Build) -> None:
    task = toy_task()

    assert TaskSplit(task, "test").items == task.held_out().items
    assert TaskSplit(task, "val").items == task.items("val").items


def test_fewer_items_are_among_more_and_in_their_order(toy_task: Build) -> None:
    whole = [item.id for item in TaskSplit(toy_task(), "test").items]
    some = [item.id for item in TaskSplit(toy_task(), "test", 12).items]
    few = [item.id for item in TaskSplit(toy_task(), "test", 5).items]

    assert (len(few), len(some)) == (5, 12)
    assert set(few) < set(some) < set(whole)
    assert some == [name for name in whole if name in some]
    assert some != whole[:12]
    assert TaskSplit(toy_task(), "test", 1_000).items == TaskSplit(toy_task(), "test").items


def test_the_labels_of_training_are_those_of_training(toy_task: Build) -> None:
    task = toy_task()

    assert TaskSplit(task, "test").training_labels == [i.label for i in task.items("train").items]
    assert TaskSplit(toy_task(kind=WriteText(3)), "test").training_labels == []


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_test_item_that_was_trained_on_is_refused(split: str, toy_task: Build) -> None:
    task = toy_task()

    class Leaking(type(task)):  # type: ignore[misc]
        def items(self, asked: str) -> Any:
            return self.held_out() if asked == split else super().items(asked)

    with pytest.raises(DataError, match="23 of its test items or groups are in training"):
        _ = TaskSplit(Leaking(), "test").training_labels


def test_a_split_without_items_or_with_repeated_ids_is_refused(toy_task: Build) -> None:
    with pytest.raises(DataError, match="task toy has no items in its split val"):
        _ = TaskSplit(toy_task(splits={"val": []}), "val").items
    with pytest.raises(DataError, match="two items of its split test have the same id"):
        _ = TaskSplit(toy_task(splits={"test": [1, 2, 1]}), "test").items


def test_files_are_hashed_once(toy_task: Build) -> None:
    task = toy_task()
    hashed = []

    class Counting(type(task)):  # type: ignore[misc]
        @property
        def files(self) -> Any:
            hashed.append(1)
            return super().files

    split = TaskSplit(Counting(), "test")
    assert split.files == split.files == task.files
    assert len(hashed) == 1
