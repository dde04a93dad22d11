"""Figures of models with intervals, baselines and comparisons."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from biomamba.evaluation.records import TaskRecord
from biomamba.evaluation.task_runner import Performance, TaskFigures
from biomamba.evaluation.task_split import TaskSplit
from biomamba.metrics.measure import WILSON, Bootstrap, wilson_interval
from biomamba.metrics.significance import minimum_detectable_difference
from biomamba.tasks.dialogues import AciBench
from biomamba.tasks.prompt import Prompt
from biomamba.tasks.task import Prediction, Task, WriteText

Build = Callable[..., Any]
BOOTSTRAP = Bootstrap(num_resamples=100, seed=7)


def performance(task: Task, model: str, num_right: int) -> Performance:
    items = task.held_out().items
    texts = [item.target if n < num_right else "?" for n, item in enumerate(items)]
    predictions = [Prediction(id=i.id, text=t) for i, t in zip(items, texts, strict=True)]
    return Performance(model, task.measures(items, predictions), {"by": "likelihood"}, "c" * 64)


def figures(task: Task) -> TaskFigures:
    return TaskFigures(TaskSplit(task, "test"), "d" * 64, BOOTSTRAP, {"git": "abc"})


def one(records: Sequence[TaskRecord], model: str, metric: str) -> TaskRecord:
    (found,) = [r for r in records if (r.model, r.metric) == (model, metric)]
    return found


def test_a_figure_carries_what_is_needed_to_trust_it(toy_task: Build) -> None:
    task = toy_task()
    record = one(list(figures(task).records([performance(task, "model", 17)])), "model", "accuracy")
    interval = wilson_interval(17, 23, 0.95)

    assert (record.value, record.low, record.high) == (17 / 23, interval.low, interval.high)
    assert (record.level, record.method, record.n, record.n_groups) == (0.95, WILSON, 23, 23)
    assert (record.task, record.protocol, record.split) == ("toy", "toy-3way", "test")
    assert (record.prompt, record.prompt_fingerprint) == ("toy-v1", task.prompt.fingerprint)
    assert (record.seed, record.checkpoint_sha256, record.data_fingerprint) == (
        *(7, "c" * 64, "d" * 64),
    )
    assert record.provenance == {"git": "abc", "rejects": {}}
    assert record.answer == {"by": "likelihood"}
    assert record.minimum_detectable_difference == minimum_detectable_difference(23, 17 / 23)
    assert (record.against, record.p_value, record.mcnemar) == (None, None, None)


def test_changes_are_against_the_first_model(toy_task: Build) -> None:
    task = toy_task()
    found = [performance(task, label, n) for label, n in (("base", 10), ("a", 16), ("b", 10))]
    records = list(figures(task).records(found))
    change = one(records, "a", "accuracy_change")

    assert change.value == pytest.approx(6 / 23)
    assert change.against == "base"
    # Six items are right for the second model only: 2 * 0.5 ** 6.
    assert change.mcnemar == {"a_only": 6, "b_only": 0, "p_value": 2 / 64}
    assert change.p_value == 2 / 64
    assert one(records, "b", "accuracy_change").value == 0
    assert one(records, "b", "accuracy_change").p_value == 1
    assert not [r for r in records if r.model == "base" and r.against]


def test_items_of_one_patient_are_drawn_together(toy_task: Build) -> None:
    task = toy_task(kind=WriteText(3))
    records = list(
        figures(task).records([performance(task, label, n) for label, n in (("a", 9), ("b", 12))])
    )
    record = one(records, "a", "accuracy")

    assert (record.n, record.n_groups) == (23, 12)
    assert record.method == "bootstrap over groups"
    assert record.minimum_detectable_difference is None
    assert one(records, "b", "accuracy_change").mcnemar is None


def test_a_figure_of_one_model_only_is_not_compared(toy_task: Build) -> None:
    task = toy_task()
    base, other = performance(task, "base", 3), performance(task, "other", 4)
    few = Performance("base", base.measures[:1], {}, None)
    records = list(figures(task).records([few, other]))

    assert [r.metric for r in records if r.against] == ["accuracy_change"]
    assert one(records, "other", "length").value > 0


def test_simple_answers_stand_beside_the_models(toy_task: Build) -> None:
    records = list(figures(toy_task()).simple_records(50))
    majority, chance = (one(records, name, "accuracy") for name in ("majority", "random"))

    assert majority.checkpoint_sha256 is None
    assert majority.method == WILSON
    assert chance.method == "quantiles of 50 draws"
    assert chance.low < 1 / 3 < chance.high
    assert math.isclose(chance.value, 1 / 3, abs_tol=0.06)
    assert not list(figures(toy_task(kind=WriteText(3))).simple_records(5))


def test_figures_of_texts_carry_the_signatures_of_their_computation(tmp_path: Path) -> None:
    rows = "dataset,encounter_id,dialogue,note\naci,a,talk,one note\naci,b,talk,another note\n"
    (tmp_path / "a.csv").write_text(rows)
    files = [str(tmp_path / "a.csv")]
    task = AciBench(
        name="aci",
        protocol="p",
        prompt=Prompt(name="p", template="{dialogue}\nNote:", shrink={}),
        access="open",
        max_new_tokens=9,
        train_files=files,
        val_files=files,
        test_files=files,
    )
    items = task.items("val").items
    predictions = [Prediction(id=item.id, text=item.target) for item in items]
    found = Performance("model", task.measures(items, predictions), {}, None)

    made = TaskFigures(TaskSplit(task, "val"), "d" * 64, BOOTSTRAP, {})
    record = one(list(made.records([found])), "model", "bleu")

    assert record.provenance["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
