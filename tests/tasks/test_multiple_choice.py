"""Multiple choice with splits, options and figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.document import document_key
from biomamba.data.rows import LocalRows
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.multiple_choice import ChoiceColumns, MultipleChoice
from biomamba.tasks.prompt import Items, Prompt
from biomamba.tasks.task import Prediction

COLUMNS = ChoiceColumns(
    id="id",
    question=["q"],
    options=["options"],
    answer="answer",
    names=["0", "1", "2"],
    no_answer=["-1"],
)
SENTENCES = ChoiceColumns(
    form="winogrande", question=["s"], options=["a", "b"], answer="answer", names=["1", "2"]
)
CUE = Prompt(name="cue", template="{question}\nAnswer:", shrink={})
OPEN = Prompt(name="open", template="{question}", shrink={}, open_end=True)


def row(name: str, question: str | None = None, answer: int = 1) -> dict[str, Any]:
    return {
        "id": name,
        "q": f"Which {name}?" if question is None else question,
        "options": ["low", "high", "none of both"],
        "answer": answer,
    }


def rows(folder: Path, name: str, content: list[dict[str, Any]]) -> LocalRows:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in content), encoding="utf-8")
    return LocalRows([str(path)])


def task(folder: Path, test: list[dict[str, Any]], **settings: Any) -> MultipleChoice:
    given = {
        name: rows(folder, name, settings.pop(name))
        for name in ("train", "val")
        if settings.get(name) is not None
    }
    fixed = {"name": "mcq", "protocol": "own", "columns": COLUMNS, "prompt": CUE}
    return MultipleChoice(test=rows(folder, "test", test), **{**fixed, **given, **settings})


def ids(items: Items) -> set[str]:
    return {item.id for item in items.items}


def test_an_item_has_its_options_and_the_right_one_as_target(tmp_path: Path) -> None:
    (item,) = task(tmp_path, [row("x")]).held_out().items

    assert item.options == ["low", "high", "none of both"]
    assert (item.target, item.references) == ("high", [["high"]])
    assert item.parts["options"] == "A. low\nB. high\nC. none of both"


def test_an_answer_by_letter_has_the_letters_as_options(tmp_path: Path) -> None:
    (item,) = task(tmp_path, [row("x")], written_as="letter").held_out().items

    assert (item.options, item.target, item.references) == (["A", "B", "C"], "B", [["B"]])
    assert item.parts["options"] == "A. low\nB. high\nC. none of both"


def test_an_option_inside_a_sentence_changes_the_prompt_and_not_the_target(tmp_path: Path) -> None:
    sentence = {"s": "The cup fell off the _ as it shook.", "a": "table", "b": "cup", "answer": "1"}
    found = task(tmp_path, [sentence], columns=SENTENCES, prompt=OPEN, normalise="none")
    (item,) = found.held_out().items

    prompts = [found.prompt.render({**item.parts, **parts}) for parts in item.option_parts]

    assert prompts == ["The cup fell off the table", "The cup fell off the cup"]
    assert found.prompt.answer(item.target) == " as it shook."
    assert item.parts == {**item.parts, **item.option_parts[0]}  # the right one is trained on
    assert (item.options, item.references) == (["table", "cup"], [["table"]])


@pytest.mark.parametrize("setting", [{"written_as": "letter", "normalise": "none"}, {}])
def test_a_sentence_wants_its_only_way_of_scoring(tmp_path: Path, setting: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="form winogrande scores one ending"):
        task(tmp_path, [], columns=SENTENCES, prompt=OPEN, **setting)


def test_val_is_chosen_by_a_hash_of_the_ids_of_train(tmp_path: Path) -> None:
    names = [f"q{n}" for n in range(60)]
    found = task(tmp_path, [row("t")], train=[row(name) for name in names], val_permille=200)
    expected = {name for name in names if document_key(name) % 1000 < 200}

    assert ids(found.items("val")) == expected
    assert ids(found.items("train")) == set(names) - expected


def test_a_question_of_a_later_split_is_left_out_of_the_earlier_ones(tmp_path: Path) -> None:
    found = task(
        tmp_path,
        [row("t")],
        train=[row("a"), row("b"), row("v2", "Which v?"), row("t2", "Which t?")],
        val=[row("v"), row("t3", "Which t?")],
    )
    train, val = found.items("train"), found.items("val")

    assert (ids(train), ids(val), ids(found.held_out())) == ({"a", "b"}, {"v"}, {"t"})
    assert train.rejects == {"question of another split": 2}
    assert val.rejects == {"question of another split": 1}


def test_an_id_of_two_questions_in_two_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 ids of mcq .* the first is t"):
        task(tmp_path, [row("t")], train=[row("t", "Another?")]).items("train")


def test_a_set_without_training_rows_can_be_evaluated(tmp_path: Path) -> None:
    found = task(tmp_path, [row("t")])

    assert (ids(found.items("train")), ids(found.items("val"))) == (set(), set())
    assert ids(found.held_out()) == {"t"}


def test_a_test_question_in_another_spelling_is_not_learned(tmp_path: Path) -> None:
    spelled = ["which\u00a0T", "\uff37hich t?", "Whi\u00adch  t ?", "Which tt?"]
    found = task(tmp_path, [row("t")], train=[row(f"r{n}", q) for n, q in enumerate(spelled)])

    items = [found.items(split) for split in ("train", "val")]

    assert ids(items[0]) | ids(items[1]) == {"r3"}
    assert items[0].rejects == {"question of another split": 3}


@pytest.mark.parametrize("limit", [0.0, 0.5])
def test_damaged_rows_are_refused_over_the_limit_of_the_task(tmp_path: Path, limit: float) -> None:
    found = task(tmp_path, [row(f"t{n}") for n in range(4)], max_bad_fraction=limit)
    with (tmp_path / "test.jsonl").open("a") as out:
        out.write('{"id": "cut')

    if limit:
        assert found.held_out().rejects == {"row is not JSON": 1}
    else:
        with pytest.raises(DataError, match=r"test\.jsonl: 1 of 5 rows are damaged"):
            found.held_out()
    with pytest.raises(ConfigError, match="max_bad_fraction of mcq"):
        task(tmp_path, [], max_bad_fraction=2)


def test_secret_answers_are_no_test_split(tmp_path: Path) -> None:
    secret = task(tmp_path, [row("t", answer=-1)])

    with pytest.raises(DataError, match=r"'answer is secret': 1.* name the validation file"):
        secret.held_out()


def test_accuracy_and_calibration_of_chosen_options(tmp_path: Path) -> None:
    rows_of_three = [row(f"t{n}", answer=n % 3) for n in range(9)]
    found = task(tmp_path, rows_of_three, normalise="none")
    items = found.held_out().items
    scores = {"low": 1 / 3, "high": 1 / 3, "none of both": 1 / 3}
    predictions = [Prediction(id=item.id, text="high", scores=scores) for item in items]

    values = {m.name: m.value for m in found.measures(items, predictions)}

    assert values["accuracy"] == pytest.approx(1 / 3)
    assert values["calibration_error"] == pytest.approx(0, abs=1e-12)
    assert values["brier_score"] == pytest.approx(1 - 1 / 3)
    by_length = task(tmp_path, rows_of_three, normalise="bytes")
    assert [m.name for m in by_length.measures(items, predictions)] == [
        "accuracy",
        "unparsable_ratio",  # shares of likelihoods per byte are no probabilities
    ]
    unread = [Prediction(id=item.id, text="both") for item in items]
    assert [m.value for m in found.measures(items, unread)] == [0.0, 1.0]


def test_files_are_known_by_split_and_name(tmp_path: Path) -> None:
    found = task(tmp_path, [row("t")], train=[row("a")])

    assert sorted(found.files) == ["test/test.jsonl", "train/train.jsonl"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"written_as": "essay"}, "written_as is 'essay'; allowed: text, letter"),
        ({"normalise": "words"}, "normalise is 'words'; allowed: bytes, tokens, none"),
        ({"val_permille": -1}, "val_permille must be .* at most 999, found -1"),
    ],
)
def test_settings_that_are_not_known_are_refused(
    tmp_path: Path, setting: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        task(tmp_path, [], **setting)
