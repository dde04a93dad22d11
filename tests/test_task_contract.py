"""What every task of conf/task keeps, on small invented files of all its layouts.

A new task needs its files written in tests/shared/task_files.py, or in a folder
tests/fixtures/tasks/<name> that stands for paths.raw_dir.
"""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from task_files import NUM_CHOICES, write_task_files

from biomamba.config.check import build
from biomamba.config.compose import compose_config
from biomamba.config.safety import conf_dir
from biomamba.metrics.measure import Measure
from biomamba.runtime.errors import ConfigError
from biomamba.tasks.prompt import Item
from biomamba.tasks.task import ACCESS, ChooseLabel, ChooseOption, Prediction, Task, WriteText

NAMES = sorted(path.stem for path in (conf_dir() / "task").glob("*.yaml") if path.stem[0] != "_")
FIXTURES = Path(__file__).parent / "fixtures" / "tasks"


@dataclass(frozen=True)
class Case:
    task: Task
    items: dict[str, Sequence[Item]]

    @property
    def test(self) -> Sequence[Item]:
        return self.items["test"]

    @property
    def all(self) -> Sequence[Item]:
        return [item for items in self.items.values() for item in items]

    def measures(self, texts: Sequence[str]) -> Sequence[Measure]:
        """Return the figures of one text for each test item."""
        is_label = isinstance(self.task.answer, ChooseLabel)
        given = [
            Prediction(id=item.id, text=each, label=each if is_label else None)
            for item, each in zip(self.test, texts, strict=True)
        ]
        return self.task.measures(self.test, given)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task]:
    """Return all tasks, composed and built as the programs do."""
    root = tmp_path_factory.mktemp("raw")
    write_task_files(root)
    for name in NAMES:
        if (FIXTURES / name).is_dir():
            shutil.copytree(FIXTURES / name, root, dirs_exist_ok=True)
    overrides = [f"task=[{','.join(NAMES)}]", f"paths.raw_dir={root}", "checkpoint=x"]
    cfg = compose_config("evaluate", overrides)
    return {name: build(cfg.tasks[name]) for name in NAMES}


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tasks: dict[str, Task]) -> Case:
    task = tasks[request.param]
    items = {split: task.items(split).items for split in ("train", "val")}
    return Case(task, {**items, "test": task.held_out().items})


def oracle(item: Item) -> str:
    """Return the right answer; a target may be cut where references are whole."""
    groups = item.references
    return groups[0][0] if len(groups) == 1 and len(groups[0]) == 1 else item.target


def values(measures: Sequence[Measure]) -> dict[str, float]:
    return {measure.name: measure.value for measure in measures}


def test_a_task_is_named_after_its_file(tasks: dict[str, Task]) -> None:
    assert {name: task.name for name, task in tasks.items()} == {name: name for name in NAMES}
    assert all(task.protocol and task.access in ACCESS for task in tasks.values())


def test_a_prompt_of_another_text_has_another_name(tasks: dict[str, Task]) -> None:
    named = {(task.prompt.name, task.prompt.fingerprint) for task in tasks.values()}

    assert len({name for name, _ in named}) == len(named)


def test_every_split_has_items_and_no_id_or_group_twice(case: Case) -> None:
    ids = [item.id for item in case.all]
    units = [{item.unit for item in items} for items in case.items.values()]

    assert all(case.items.values())
    assert len(set(ids)) == len(ids)
    assert len(set().union(*units)) == sum(map(len, units))


def test_items_have_the_parts_of_the_prompt_and_a_target(case: Case) -> None:
    for item in case.all:
        assert all(item.parts[name].strip() for name in case.task.prompt.parts)
        assert item.target.strip()
        assert item.target == item.target.strip()
        for parts in item.option_parts or [{}]:
            assert case.task.prompt.render({**item.parts, **parts})


def test_what_is_chosen_from_is_declared(case: Case) -> None:
    answer = case.task.answer
    for item in case.all:
        if isinstance(answer, ChooseLabel):
            assert item.label == item.target
            assert item.label in answer.labels
        elif isinstance(answer, ChooseOption):
            assert item.references[0][0] in item.options
            assert len(set(item.options)) == len(item.options) > 1
            assert len(item.option_parts) in (0, len(item.options))
        else:
            assert item.references
            assert answer.max_new_tokens > 0


def test_reading_again_gives_the_same(case: Case) -> None:
    assert case.task.items("val").items == case.items["val"]


def test_no_program_but_evaluation_gets_the_test_split(case: Case) -> None:
    with pytest.raises(ConfigError, match="'test'; allowed: train, val"):
        case.task.items("test")


def test_the_files_are_known_by_their_hashes(case: Case) -> None:
    assert {len(digest) for digest in case.task.files.values()} == {64}


def test_right_answers_score_the_maximum(case: Case) -> None:
    found = values(case.measures([oracle(item) for item in case.test]))

    assert next(iter(found.values())) == pytest.approx(1)
    assert found.get("accuracy", 1) == found.get("macro_f1", 1) == 1
    assert found.get("unparsable_ratio", 0) == 0


def test_the_order_of_the_items_changes_nothing(case: Case) -> None:
    order = random.Random(0).sample(range(len(case.test)), len(case.test))
    shuffled = replace(case, items={**case.items, "test": [case.test[n] for n in order]})
    texts = [oracle(item) for item in case.test]
    texts = texts[3:] + texts[:3]

    before = values(case.measures(texts))
    after = values(shuffled.measures([texts[n] for n in order]))

    assert after == {name: pytest.approx(value, nan_ok=True) for name, value in before.items()}


def test_answers_of_other_items_score_what_they_share(case: Case) -> None:
    given = [oracle(item) for item in reversed(case.test)]
    main = case.measures(given)[0]
    hits = [answer == oracle(item) for answer, item in zip(given, case.test, strict=True)]

    if isinstance(case.task.answer, WriteText):
        assert main.value < 1
    else:
        assert values(case.measures(given))["accuracy"] == pytest.approx(sum(hits) / len(hits))


def test_a_constant_answer_scores_its_baseline(case: Case) -> None:
    answer, size = case.task.answer, len(case.test)
    if isinstance(answer, ChooseLabel):
        for label in answer.labels:
            share = sum(item.label == label for item in case.test) / size
            found = values(case.measures([label] * size))
            # Precision is the share of the label and recall 1; no other label is answered.
            f1 = 2 * share / (1 + share) / len(answer.labels)
            assert (found["accuracy"], found["macro_f1"]) == pytest.approx((share, f1))
    elif isinstance(answer, ChooseOption):
        found = values(case.measures([item.options[0] for item in case.test]))
        assert size == NUM_CHOICES  # the first option is right in rows of even numbers
        assert found["accuracy"] == pytest.approx((size + 1) // 2 / size)
    else:
        assert case.measures([""] * size)[0].value == 0
