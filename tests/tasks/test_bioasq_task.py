"""Files and splits of the tasks of BioASQ."""

import json
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.document import document_key
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.bioasq import BioASQYesNo
from biomamba.tasks.prompt import Items, Prompt

PROMPT = Prompt(name="p", template="{question} {context} Answer:", shrink={"context": "right"})


def question(name: str, body: str | None = None) -> dict[str, Any]:
    body = f"Does {name} help?" if body is None else body
    return {"id": name, "body": body, "type": "yesno", "exact_answer": "yes", "snippets": []}


def task(
    folder: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], **settings: Any
) -> BioASQYesNo:
    for name, questions in (("train", train), ("test", test)):
        path = folder / f"{name}.json"
        path.write_text(json.dumps({"questions": questions}), encoding="utf-8")
    files = {f"{name}_files": [str(folder / f"{name}.json")] for name in ("train", "test")}
    return BioASQYesNo(**{**files, "prompt": PROMPT, **settings})


def ids(items: Items) -> set[str]:
    return {item.id for item in items.items}


def test_a_hash_of_the_id_decides_what_is_val_whatever_stands_beside_it(tmp_path: Path) -> None:
    questions = [question(f"q{n}") for n in range(100)]
    whole = task(tmp_path, questions, [question("t")])
    expected = {f"q{n}" for n in range(100) if document_key(f"q{n}") % 1000 < 100}

    assert ids(whole.items("val")) == expected
    assert ids(whole.items("train")) == {f"q{n}" for n in range(100)} - expected
    half = task(tmp_path, questions[::-2], [question("t")])
    assert ids(half.items("val")) == expected & {q["id"] for q in questions[::-2]}


def test_a_question_under_several_ids_stays_in_one_split(tmp_path: Path) -> None:
    questions = [question(f"q{n}-{copy}", f"Is {n}?") for n in range(40) for copy in range(3)]
    found = task(tmp_path, questions, [question("t")], val_permille=500)
    val, train = ids(found.items("val")), ids(found.items("train"))

    assert val
    assert train
    assert not {name.split("-")[0] for name in val} & {name.split("-")[0] for name in train}


def test_a_test_question_under_another_id_is_left_out_and_counted(tmp_path: Path) -> None:
    train = [question("a", "Does  REST help?"), question("b")]
    found = task(tmp_path, train, [question("t", "Does rest help?")], val_permille=0).items("train")

    assert ids(found) == {"b"}
    assert found.rejects == {"question of the test files": 1}


def test_an_id_in_train_and_test_is_refused(tmp_path: Path) -> None:
    shared = task(tmp_path, [question("a"), question("b")], [question("b", "Another?")])

    for split in ("train", "val"):
        with pytest.raises(DataError, match=r"1 questions .* b in train\.json and test\.json"):
            shared.items(split)


def test_files_are_known_by_name_and_hash(tmp_path: Path) -> None:
    found = task(tmp_path, [question("a")], [question("b")])

    assert sorted(found.files) == ["test.json", "train.json"]
    assert all(len(digest) == 64 for digest in found.files.values())


def test_either_kind_of_files_may_be_missing_but_not_both(tmp_path: Path) -> None:
    only_test = task(tmp_path, [], [question("t")], train_files=[])
    assert (ids(only_test.items("train")), ids(only_test.held_out())) == (set(), {"t"})

    only_train = task(tmp_path, [question("a")], [], test_files=[])
    assert ids(only_train.items("train")) | ids(only_train.items("val")) == {"a"}
    with pytest.raises(ConfigError, match="test_files of bioasq_yesno is empty"):
        only_train.held_out()
    with pytest.raises(ConfigError, match="name some"):
        task(tmp_path, [], [], train_files=[], test_files=[])


def test_a_share_of_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"val_permille must be .* at most 999, found 1000"):
        task(tmp_path, [], [], val_permille=1000)


def test_the_test_split_is_no_training_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'test'; allowed: train, val"):
        task(tmp_path, [question("a")], [question("b")]).items("test")
