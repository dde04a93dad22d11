"""Heads see training and validation items only, in an order of their own."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from biomamba.evaluation.answers import AnswerOptions, AnswerProgress, Heads, Questions, fit_head
from biomamba.evaluation.label_head import (
    HeadOptions,
    LabelHead,
    LabelledFeatures,
    fit_label_head,
)
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.prompt import Items
from biomamba.tasks.task import ChooseOption, Task, WriteText

Build = Callable[..., Any]
OPTIONS = AnswerOptions(label_by="head", head=HeadOptions(), batch_size=4)


def poisoned(task: Task, monkeypatch: pytest.MonkeyPatch) -> Task:
    """Return the task with a test split that nobody may ask for."""

    def refused(self: Task) -> Items:
        raise AssertionError("the test split was read")

    monkeypatch.setattr(type(task), "held_out", refused)
    return task


def test_a_head_is_fitted_on_the_prompts_of_training_and_validation(
    toy_task: Build, feature_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, model = poisoned(toy_task(), monkeypatch), feature_model()
    head = fit_head(task, model, OPTIONS)

    splits = [task.items(split).items for split in ("train", "val")]
    prompts = [task.prompt.render(item.parts) for items in splits for item in items]
    assert sorted(model.asked) == sorted(prompts)
    assert (head.num_train, head.num_val) == (30, 20)
    numbers = {label: number for number, label in enumerate(head.labels)}
    train, val = (
        LabelledFeatures(
            feature_model().features(
                [model.tokenizer.encode(_prompt(task, i)) for i in items], "last"
            ),
            np.array([numbers[item.label] for item in items]),
        )
        for items in splits
    )
    expected = fit_label_head(head.labels, train, val, HeadOptions())
    assert head.strength == expected.strength
    assert head.weights == pytest.approx(expected.weights, abs=1e-4)


def _prompt(task: Task, item: Any) -> str:
    return task.prompt.render(item.parts)


@pytest.mark.parametrize("changed", ["train", "val"])
def test_labels_of_either_split_matter(
    changed: str, toy_task: Build, feature_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = fit_head(toy_task(), feature_model(), OPTIONS)
    _turn_labels(toy_task(), changed, monkeypatch)
    other = fit_head(toy_task(), feature_model(), OPTIONS)

    assert other.val_nll != head.val_nll
    assert (other.scale.mean == head.scale.mean).all()


def _turn_labels(task: Task, split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every item of a split the next label."""
    known = type(task).items
    following = {"yes": "no", "no": "maybe", "maybe": "yes"}

    def turned(self: Task, wanted: str) -> Items:
        items = known(self, wanted).items
        if wanted != split:
            return Items(items)
        return Items([replace(item, label=following[str(item.label)]) for item in items])

    monkeypatch.setattr(type(task), "items", turned)


def test_the_order_of_the_items_changes_no_bit(toy_task: Build, feature_model: Build) -> None:
    splits = {"train": range(100, 130), "val": range(200, 220), "test": range(23)}
    backwards = {name: found[::-1] for name, found in splits.items()}
    heads = [
        fit_head(toy_task(splits=each), feature_model(), OPTIONS) for each in (splits, backwards)
    ]

    assert heads[0].sha256 == heads[1].sha256


def test_heads_are_fitted_once_for_each_task_and_model(
    toy_task: Build, feature_model: Build
) -> None:
    tasks = [toy_task(), toy_task(name="other")]
    models = [feature_model(), feature_model(label="base", seed=1)]
    heads = Heads(models, tasks, OPTIONS)
    with AnswerProgress() as progress:
        found = [heads.of(task, model, progress) for task in tasks for model in models]

    assert [len(model.asked) for model in models] == [100, 100]
    assert heads.of(tasks[0], models[0]) is found[0]
    assert [len(model.asked) for model in models] == [100, 100]
    digests = [head.sha256 for head in found if isinstance(head, LabelHead)]
    assert digests[0] != digests[1]
    assert digests[:2] == digests[2:]


@pytest.mark.parametrize("kind", [ChooseOption(), WriteText(5)])
def test_other_tasks_and_other_ways_have_no_head(
    kind: Any, toy_task: Build, toy_model: Build
) -> None:
    task, model = toy_task(kind=kind), toy_model()

    assert Heads([model], [task], OPTIONS).of(task, model) is None
    assert Heads([model], [toy_task()], AnswerOptions()).of(toy_task(), model) is None
    assert not model.asked


def test_a_model_without_hidden_states_is_refused_before_anything_is_asked(
    toy_task: Build, toy_model: Build, feature_model: Build
) -> None:
    other = toy_model(label="gpt", checkpoint="hf:gpt")
    with pytest.raises(ConfigError, match=r"our own models; gpt \(hf:gpt\) gives none"):
        Heads([feature_model(), other], [toy_task()], OPTIONS)
    with pytest.raises(ConfigError, match="answers=likelihood or answers=generation"):
        Questions(toy_task(), other, OPTIONS).features(toy_task().items("val").items)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_items_or_labels_is_refused(
    split: str, toy_task: Build, feature_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = {"train": range(100, 130), "val": range(200, 220), "test": range(9)} | {split: []}
    with pytest.raises(DataError, match=f"toy has no items in its split {split}"):
        fit_head(toy_task(splits=empty), feature_model(), OPTIONS)

    known = type(toy_task()).items

    def unlabelled(self: Task, wanted: str) -> Items:
        first, *others = known(self, wanted).items
        return Items([replace(first, label=None if wanted == split else first.label), *others])

    monkeypatch.setattr(type(toy_task()), "items", unlabelled)
    with pytest.raises(DataError, match=f"1 of .0 items without one of its .* split {split}"):
        fit_head(toy_task(), feature_model(), OPTIONS)
