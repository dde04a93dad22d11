"""BioASQ yes/no questions."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from biomamba.runtime.errors import DataError
from biomamba.tasks.bioasq import BioASQYesNo
from biomamba.tasks.prompt import Prompt
from biomamba.tasks.task import Prediction

PROMPT = Prompt(name="p", template="{question} {context} Answer:", shrink={"context": "right"})
# Of the golden files: yes and no.
COUNTS = {"12B1_golden.json": (15, 10), "12B2_golden.json": (18, 8)}


def task(path: Path) -> BioASQYesNo:
    return BioASQYesNo(train_files=[], test_files=[str(path)], prompt=PROMPT)


def written(tmp_path: Path, *answers: Any) -> BioASQYesNo:
    questions = [
        {"id": str(n), "body": "Is it?", "type": "yesno", "exact_answer": answer}
        | {"snippets": [{"text": "First."}, {"text": "Second."}]}
        for n, answer in enumerate(answers)
    ]
    path = tmp_path / "golden.json"
    path.write_text(json.dumps({"questions": questions}), encoding="utf-8")
    return task(path)


@pytest.mark.parametrize(
    ("answer", "label"),
    [("yes", "yes"), ("No", "no"), ("YES.", "yes"), (["no"], "no"), ([["yes"]], "yes")],
)
def test_labels_are_read_in_any_form_that_files_have(
    tmp_path: Path, answer: Any, label: str
) -> None:
    (item,) = written(tmp_path, answer).held_out().items

    assert (item.target, item.label) == (label, label)
    assert item.facts == {"file": "golden.json"}


@pytest.mark.parametrize("answer", ["maybe", ["yes", "no"], "yes and no"])
def test_another_label_is_refused_by_value_and_file(tmp_path: Path, answer: Any) -> None:
    with pytest.raises(DataError, match=r"golden\.json: question 1: exact_answer is .*'yes', 'no'"):
        written(tmp_path, "yes", answer).held_out()


def test_a_question_without_an_answer_is_counted(tmp_path: Path) -> None:
    found = written(tmp_path, "Yes.", "", None).held_out()

    assert [item.label for item in found.items] == ["yes"]
    assert found.rejects == Counter({"no exact answer": 2})


def test_snippets_stand_between_empty_lines_and_none_is_said(tmp_path: Path) -> None:
    found = written(tmp_path, "yes")

    (item,) = found.held_out().items

    assert item.parts["context"] == "First.\n\nSecond."
    assert "N/A" in found.prompt.render({**item.parts, "context": ""})


def test_macro_f1_is_the_main_figure(tmp_path: Path) -> None:
    found = written(tmp_path, "yes", "yes", "yes", "no")
    items = found.held_out().items
    predictions = [Prediction(id=item.id, text="yes", label="yes") for item in items]

    measures = found.measures(items, predictions)

    # All yes: F1 of yes 2 * 3 / (4 + 3), of no 0.
    assert (measures[0].name, measures[0].value) == ("macro_f1", pytest.approx(3 / 7))
    assert measures[1].value == 0.75


@pytest.mark.parametrize("name", COUNTS)
def test_the_golden_files(real_data: Path, name: str) -> None:
    found = task(real_data / "bioasq-12b-golden" / name).held_out()

    yes, no = COUNTS[name]
    assert Counter(item.label for item in found.items) == {"yes": yes, "no": no}
    assert not found.rejects
