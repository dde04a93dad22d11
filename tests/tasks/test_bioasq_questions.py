"""Questions of BioASQ from invented files of both layouts."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from biomamba.runtime.errors import DataError
from biomamba.tasks.bioasq import TYPES, Question, answer_groups, read_questions

QUESTION: dict[str, Any] = {
    "id": "65f7080fc4010b4d78000019",
    "body": "Which tick carries Lyme disease? ",
    "type": "factoid",
    "exact_answer": [["Ixodes", "Ixodes ricinus"]],
    "snippets": [{"text": "Ixodes ticks bite."}, {"text": ""}, {"text": "Ixodes ticks bite."}],
    "_body": "an unknown key",
}


def golden(folder: Path, *questions: Any, name: str = "12B1_golden.json") -> Path:
    path = folder / name
    path.write_text(json.dumps({"questions": questions}), encoding="utf-8")
    return path


def squad(folder: Path, rows: list[tuple[str, str, str, list[str]]]) -> Path:
    paragraphs = [
        {
            "context": context,
            "qas": [{"id": name, "question": body, "answers": [{"text": t} for t in texts]}],
        }
        for name, body, context, texts in rows
    ]
    path = folder / "squad.json"
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    return path


def test_a_question_keeps_its_answers_and_each_snippet_once(tmp_path: Path) -> None:
    (question,), rejects = read_questions([golden(tmp_path, QUESTION)], "factoid")

    assert question == Question(
        id="65f7080fc4010b4d78000019",
        body="Which tick carries Lyme disease?",
        snippets=["Ixodes ticks bite."],
        answers=[["Ixodes", "Ixodes ricinus"]],
        file="12B1_golden.json",
    )
    assert not rejects


@pytest.mark.parametrize("snippets", [[], None, [{"text": " "}], [{"document": "x"}]])
def test_a_question_without_snippets_stays(tmp_path: Path, snippets: Any) -> None:
    path = golden(tmp_path, {**QUESTION, "snippets": snippets})

    assert read_questions([path], "factoid")[0][0].snippets == []


@pytest.mark.parametrize("kind", TYPES)
def test_only_questions_of_the_type_are_read(tmp_path: Path, kind: str) -> None:
    questions = [{**QUESTION, "id": each, "type": each} for each in TYPES]

    found, _ = read_questions([golden(tmp_path, *questions)], kind)

    assert [question.id for question in found] == [kind]


@pytest.mark.parametrize(
    ("value", "groups"),
    [
        ("yes", [["yes"]]),
        (["a", "b"], [["a"], ["b"]]),
        ([["a", "b"], ["c"]], [["a", "b"], ["c"]]),
        ([["a", " "], [""], "b"], [["a"], ["b"]]),
        ([["a "]], [["a "]]),  # the evaluator compares the file's own characters
        ([], []),
        ("", []),
        (None, []),
        ([[["a"]]], None),
        ([None], None),
        ([1], None),
        ({"a": "b"}, None),
    ],
)
def test_flat_and_nested_answers_become_groups(value: Any, groups: Any) -> None:
    assert answer_groups(value) == groups


def test_what_cannot_be_asked_is_counted(tmp_path: Path) -> None:
    without = {key: value for key, value in QUESTION.items() if key != "exact_answer"}
    files = [
        golden(tmp_path, {**without, "id": "a"}, {**QUESTION, "id": "b", "body": " "}, QUESTION),
        golden(tmp_path, {**QUESTION, "body": "Another?"}, name="12B2_golden.json"),
    ]

    found, rejects = read_questions(files, "factoid")

    assert [(question.id, question.file) for question in found] == [
        (QUESTION["id"], "12B1_golden.json")
    ]
    assert rejects == Counter({"no exact answer": 1, "empty question": 1, "repeated id": 1})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "no list 'questions'"),
        ({"questions": {}}, "no list 'questions'"),
        ({"questions": ["text"]}, "question 1 is not BioASQ: it must be an object"),
        ({"questions": [{**QUESTION, "type": "essay"}]}, "type 'essay'; allowed: yesno"),
        ({"questions": [QUESTION, {**QUESTION, "id": 7}]}, "question 2 .* id and body"),
        ({"questions": [{**QUESTION, "body": None}]}, "id and body"),
        ({"questions": [{**QUESTION, "exact_answer": 1}]}, "exact_answer must be"),
        ({"questions": [{**QUESTION, "snippets": ["text"]}]}, "snippets must be"),
        ({"questions": [{**QUESTION, "snippets": [{"text": 1}]}]}, "text of a snippet"),
        ({"data": [{"paragraphs": [{"qas": []}, {}]}]}, "not SQuAD .*needs data"),
        (
            {"data": [{"paragraphs": [{"context": 1, "qas": [{"id": 1, "question": "q"}]}]}]},
            "SQuAD",
        ),
        ({"data": 1}, "SQuAD"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "12B1_golden.json"
    path.write_text(json.dumps(content), encoding="utf-8")

    with pytest.raises(DataError, match=words):
        read_questions([path], "factoid")


@pytest.mark.parametrize("joint", ["_", ":"])
def test_the_rows_of_a_squad_question_are_merged(tmp_path: Path, joint: str) -> None:
    first, second = "5" * 24, "6" * 24
    rows = [
        (f"{first}{joint}001", "Which tick?", "One snippet.", ["Ixodes"]),
        (f"{second}{joint}001", "Which gene?", "Another.", ["KRAS"]),
        (f"{first}{joint}002", "Which tick?", "Two snippets.", ["Ixodes ricinus", "Ixodes"]),
        (f"{first}{joint}003", "Which tick?", "One snippet.", []),
    ]

    found, rejects = read_questions([squad(tmp_path, rows)], "factoid")

    assert [question.id for question in found] == [first, second]
    assert found[0].snippets == ["One snippet.", "Two snippets."]
    assert found[0].answers == [["Ixodes", "Ixodes ricinus"]]
    assert not rejects


def test_squad_rows_without_answers_or_question_are_counted(tmp_path: Path) -> None:
    rows = [("a_001", "Which tick?", "One.", []), ("b_001", "", "One.", ["x"])]

    found, rejects = read_questions([squad(tmp_path, rows)], "factoid")

    assert found == []
    assert rejects == Counter({"no exact answer": 1, "empty question": 1})


def test_two_squad_questions_of_one_id_are_refused(tmp_path: Path) -> None:
    rows = [("a_001", "Which tick?", "One.", ["x"]), ("a_002", "Which gene?", "One.", ["x"])]

    with pytest.raises(DataError, match="two questions have the id a"):
        read_questions([squad(tmp_path, rows)], "factoid")


def test_squad_files_are_for_factoid_questions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="for factoid questions alone"):
        read_questions([squad(tmp_path, [("a_001", "Which?", "One.", ["x"])])], "yesno")
