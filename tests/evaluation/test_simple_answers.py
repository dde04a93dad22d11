"""What the most frequent label and chance achieve."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from biomamba.evaluation.task_runner import majority_measures, random_values
from biomamba.tasks.task import ChooseOption, WriteText

Build = Callable[..., Any]


def test_majority_is_the_most_frequent_label_of_training(toy_task: Build) -> None:
    task = toy_task()
    items = task.held_out().items
    for labels, label in ((["no", "no", "yes"], "no"), (["maybe", "no", "yes"], "yes")):
        (accuracy, *_) = majority_measures(task, items, labels)
        assert accuracy.value == Counter(item.label for item in items)[label] / len(items)


def test_without_labels_there_is_no_majority(toy_task: Build) -> None:
    assert not majority_measures(toy_task(), toy_task().held_out().items, [])


@pytest.mark.parametrize("changes", [{}, {"kind": ChooseOption()}])
def test_chance_is_one_in_three_of_three(changes: dict[str, Any], toy_task: Build) -> None:
    task = toy_task(**changes)
    values = random_values(task, task.held_out().items, 400, seed=1)["accuracy"]

    # 23 items: a standard deviation of 0.098, and of 0.0049 of the mean over 400 draws.
    assert np.mean(values) == pytest.approx(1 / 3, abs=4 * 0.0049)
    assert np.std(values) == pytest.approx(0.098, rel=0.2)


def test_the_seed_decides(toy_task: Build) -> None:
    task = toy_task()
    items = task.held_out().items

    assert random_values(task, items, 3, seed=1) == random_values(task, items, 3, seed=1)
    assert random_values(task, items, 3, seed=1) != random_values(task, items, 3, seed=2)


def test_nobody_writes_by_chance(toy_task: Build) -> None:
    task = toy_task(kind=WriteText(3))

    assert random_values(task, task.held_out().items, 3, seed=1) == {}
