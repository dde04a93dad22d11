"""Questions of multiple-choice sets from rows in the layouts of the public ones."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.rows import LocalRows
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.multiple_choice import Choice, ChoiceColumns, read_choices

PIQA = ChoiceColumns(
    question=["goal"],
    options=["sol1", "sol2"],
    answer="label",
    names=["0", "1"],
    no_answer=["-1"],
)
ARC = ChoiceColumns(
    question=["question"],
    options=["choices.text"],
    answer="answerKey",
    names_column="choices.label",
    id="id",
)
MEDQA = ChoiceColumns(
    question=["question"], options=["options"], answer="answer_idx", names=["A", "B"]
)
HELLASWAG = ChoiceColumns(
    form="hellaswag",
    question=["activity_label", "ctx_a", "ctx_b"],
    options=["endings"],
    answer="label",
    names=["0", "1"],
)
WINOGRANDE = ChoiceColumns(
    form="winogrande",
    question=["sentence"],
    options=["option1", "option2"],
    answer="answer",
    names=["1", "2"],
)
GOAL = {"goal": "Warm the hands. ", "sol1": "Ice.", "sol2": "Gloves.", "label": 1}
SCIENCE = {
    "id": "M1",
    "question": "What melts?",
    "choices": {"text": ["Ice", "Iron", "Sand"], "label": ["1", "2", "3"]},
    "answerKey": "1",
}


def read(tmp_path: Path, columns: ChoiceColumns, *rows: Any) -> tuple[list[Choice], Counter[str]]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_choices(LocalRows([str(path)]), columns)


def only(tmp_path: Path, columns: ChoiceColumns, row: Any) -> Choice:
    (choice,), rejects = read(tmp_path, columns, row)
    assert not rejects
    return choice


def test_a_column_for_each_option(tmp_path: Path) -> None:
    choice = only(tmp_path, PIQA, GOAL)

    assert (choice.question, choice.options) == ("Warm the hands.", ["Ice.", "Gloves."])
    assert (choice.right, choice.id) == (1, choice.key)


@pytest.mark.parametrize(("key", "labels"), [("1", "123"), ("C", "ABC")])
def test_a_list_of_options_with_names_of_their_own(tmp_path: Path, key: str, labels: str) -> None:
    choices = {**SCIENCE["choices"], "label": list(labels)}
    choice = only(tmp_path, ARC, {**SCIENCE, "choices": choices, "answerKey": key})

    assert (choice.id, choice.right) == ("M1", labels.index(key))
    assert choice.options == ["Ice", "Iron", "Sand"]


def test_an_object_of_options_is_read_in_the_order_of_its_letters(tmp_path: Path) -> None:
    row = {"question": "Which?", "options": {"B": "b", "A": "a"}, "answer_idx": "B"}

    choice = only(tmp_path, MEDQA, row)

    assert (choice.options, choice.right) == (["a", "b"], 1)


def test_hellaswag_is_prepared_as_the_harness_prepares_it(tmp_path: Path) -> None:
    row = {"activity_label": "Ice skating", "ctx_a": "A man [header] skates.", "ctx_b": "he THEN"}
    row |= {"endings": ["falls. [substeps] He", "Tie [title] Now [step] go."], "label": "1"}

    choice = only(tmp_path, HELLASWAG, row)

    assert choice.question == "Ice skating: A man skates. He then"
    assert choice.options == ["falls. He", "Tie. Now go."]
    assert choice.right == 1


@pytest.mark.parametrize(
    ("sentence", "before", "ending"),
    [
        ("The cup broke because the _ was thin.", "The cup broke because the ", "was thin."),
        ("_ was thin, not _ .", "", "was thin, not _ ."),
    ],
)
def test_winogrande_is_cut_at_its_first_blank(
    tmp_path: Path, sentence: str, before: str, ending: str
) -> None:
    row = {"sentence": sentence, "option1": "cup", "option2": "plate", "answer": "2"}

    choice = only(tmp_path, WINOGRANDE, row)

    assert (choice.question, choice.ending, choice.right) == (before, ending, 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"goal": " "}, "empty question"),
        ({"sol1": ""}, "fewer than two options or an empty one"),
        ({"sol1": "Gloves. "}, "options are not distinct"),
        ({"label": -1}, "answer is secret"),
    ],
)
def test_a_row_that_cannot_be_asked_is_counted(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    assert read(tmp_path, PIQA, {**GOAL, **change}) == ([], Counter({reason: 1}))


def test_other_rows_that_cannot_be_asked(tmp_path: Path) -> None:
    sentence = {"option1": "a", "option2": "b", "answer": "1"}
    for text in ("No blank.", "It ends in _"):
        found = read(tmp_path, WINOGRANDE, {**sentence, "sentence": text})
        assert found == ([], Counter({"no text after a blank": 1}))
    many = {"text": [str(n) for n in range(27)], "label": [str(n) for n in range(27)]}
    found = read(tmp_path, ARC, {**SCIENCE, "choices": many})
    assert found == ([], Counter({"more options than letters": 1}))


@pytest.mark.parametrize(
    ("columns", "row", "words"),
    [
        (PIQA, {**GOAL, "label": 2}, "rows.jsonl row 2: label is '2', the task declares '0', '1'"),
        (PIQA, {**GOAL, "label": ""}, "label is ''"),
        (PIQA, {**GOAL, "label": None}, "label is 'null'"),
        (PIQA, {**GOAL, "label": 1.0}, r"label is '1\.0'"),
        (PIQA, {**GOAL, "label": "a long text of somebody" * 3}, "label is a str"),
        (ARC, {**SCIENCE, "answerKey": "D"}, "answerKey is 'D', the task declares '1', '2', '3'"),
        (
            ARC,
            {**SCIENCE, "choices": {"text": ["a", "b"], "label": ["1"]}},
            "2 options, the task declares 1 names",
        ),
        (
            MEDQA,
            {"question": "q", "options": {"A": "a", "B": "b", "C": "c"}, "answer_idx": "A"},
            "options has the options A, B, C, the task declares A, B",
        ),
        (MEDQA, {"question": "q", "options": {"A": "a", "B": "b"}, "answer_idx": "E"}, "is 'E'"),
    ],
)
def test_an_answer_that_is_not_declared_is_refused(
    tmp_path: Path, columns: ChoiceColumns, row: Any, words: str
) -> None:
    fine = {
        "goal": GOAL | {"goal": "Another."},
        "answerKey": SCIENCE | {"id": "M0", "question": "Another?"},
        "answer_idx": {"question": "p", "options": {"A": "a", "B": "b"}, "answer_idx": "A"},
    }
    first = fine["goal" if columns is PIQA else columns.answer]
    with pytest.raises(DataError, match=words):
        read(tmp_path, columns, first, row)


def test_a_name_is_not_also_a_secret_answer() -> None:
    with pytest.raises(ConfigError, match=r"both have \['1'\]"):
        replace(PIQA, no_answer=["1"])


@pytest.mark.parametrize("num_damaged", [1, 2])
def test_a_question_is_read_once_and_damaged_rows_are_counted_up_to_a_limit(
    tmp_path: Path, num_damaged: int
) -> None:
    rows = [{**GOAL, "goal": f"Goal {n}"} for n in range(98)]
    damaged = [["a list"]] * num_damaged

    if num_damaged == 1:
        choices, rejects = read(tmp_path, PIQA, *rows, rows[0], *damaged)
        assert len(choices) == 98
        assert rejects == Counter({"repeated question": 1, "row is not an object": 1})
    else:
        words = r"rows\.jsonl: 2 of 101 rows are damaged .*an object: 2.*max_bad_fraction"
        with pytest.raises(DataError, match=words):
            read(tmp_path, PIQA, *rows, rows[0], *damaged)


@pytest.mark.parametrize(
    ("columns", "row", "words"),
    [
        (PIQA, {"goal": "x"}, r"row 1 has no column sol1; it has goal"),
        (PIQA, {**GOAL, "goal": None}, "column goal is not text"),
        (ARC, {**SCIENCE, "choices": ["a"]}, r"no column choices\.text"),
        (ARC, {**SCIENCE, "choices": {"text": "ab", "label": ["1"]}}, "choices.text is not text"),
    ],
)
def test_rows_of_another_set_are_refused(
    tmp_path: Path, columns: ChoiceColumns, row: Any, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        read(tmp_path, columns, row)


def test_one_id_for_two_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 2 repeats the id M1 with another question"):
        read(tmp_path, ARC, SCIENCE, {**SCIENCE, "question": "What is hard?"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"form": "essay"}, "form is 'essay'; allowed: plain"),
        ({"form": "hellaswag"}, "form hellaswag needs 3 columns"),
        ({"options": []}, "one or more of options"),
        ({"names": []}, "either names of the options or names_column"),
        ({"names_column": "label"}, "either names of the options or names_column"),
    ],
)
def test_columns_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(PIQA, **change)
