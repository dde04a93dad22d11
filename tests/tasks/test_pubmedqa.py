"""PubMedQA from invented files of its layouts, and from the real ones."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.prompt import Item, Prompt
from biomamba.tasks.pubmedqa import LABELS, NUM_FOLDS, PubMedQA

PROMPT = Prompt(name="p", template="{question} {context} Answer:", shrink={"context": "middle"})
BARE = Prompt(name="bare", template="{question} Answer:", shrink={})
RECORD: dict[str, Any] = {
    "QUESTION": "Does rest help?",
    "CONTEXTS": ["Forty people rested.", "Ten did not."],
    "LABELS": ["METHODS", "RESULTS"],
    "YEAR": "2011",
    "final_decision": "yes",
}
TRUTH = {"1": "yes"}


def written(tmp_path: Path, records: Any, truth: Any, **settings: Any) -> PubMedQA:
    file, test_file = tmp_path / "ori_pqal.json", tmp_path / "test_ground_truth.json"
    file.write_text(json.dumps(records), encoding="utf-8")
    test_file.write_text(json.dumps(truth), encoding="utf-8")
    given = {"protocol": "own-3way", "prompt": PROMPT, **settings}
    return PubMedQA(file=str(file), test_file=str(test_file), **given)


def many(tmp_path: Path, **settings: Any) -> PubMedQA:
    """Return 60 questions of which every sixth is a test question."""
    records = {
        str(n): {**RECORD, "QUESTION": f"Does rest {n} help?", "final_decision": LABELS[n % 3]}
        for n in range(60)
    }
    truth = {str(n): LABELS[n % 3] for n in range(0, 60, 6)}
    return written(tmp_path, records, truth, **settings)


def ids(items: list[Item]) -> set[str]:
    return {item.id for item in items}


def test_sections_keep_their_labels(tmp_path: Path) -> None:
    records = {"1": RECORD, "2": {**RECORD, "QUESTION": "Does food?"}}
    records["2"] |= {"LABELS": ["", "RESULTS"], "YEAR": None}
    task = written(tmp_path, records, TRUTH)

    (item,) = task.held_out().items
    (other,) = [*task.items("train").items, *task.items("val").items]

    assert item.parts["context"] == "METHODS: Forty people rested.\n\nRESULTS: Ten did not."
    assert other.parts["context"] == "Forty people rested.\n\nRESULTS: Ten did not."
    assert (item.parts["question"], item.target, item.label) == ("Does rest help?", "yes", "yes")
    assert (item.facts, other.facts) == ({"year": "2011"}, {})


def test_splits_are_disjoint_and_together_everything(tmp_path: Path) -> None:
    task = many(tmp_path)
    train, val = ids(task.items("train").items), ids(task.items("val").items)
    test = ids(task.held_out().items)

    assert test == {str(n) for n in range(0, 60, 6)}
    assert not train & val
    assert train | val == {str(n) for n in range(60)} - test


def test_every_question_is_val_in_exactly_one_fold_with_labels_dealt_evenly(tmp_path: Path) -> None:
    folds = [many(tmp_path, fold=fold).items("val").items for fold in range(NUM_FOLDS)]

    assert Counter(item.id for fold in folds for item in fold) == Counter(
        str(n) for n in range(60) if n % 6
    )
    for label in LABELS:
        sizes = [sum(item.label == label for item in fold) for fold in folds]
        assert max(sizes) - min(sizes) <= 1


def test_the_two_way_protocol_moves_no_question_to_another_split(tmp_path: Path) -> None:
    three, two = many(tmp_path), many(tmp_path, protocol="own-2way")

    for split in ("train", "val"):
        kept = [item for item in three.items(split).items if item.label != "maybe"]
        found = two.items(split)
        left_out = len(three.items(split).items) - len(kept)
        assert found.items == kept
        assert found.rejects.total() == left_out
    assert two.answer.labels == ("yes", "no")
    assert {item.label for item in two.held_out().items} <= {"yes", "no"}


def test_the_layout_of_the_hub_gives_the_same_items(tmp_path: Path) -> None:
    task = many(tmp_path)
    records = json.loads(Path(task.file).read_text(encoding="utf-8"))
    rows = [
        {
            "pubid": int(name),
            "question": record["QUESTION"],
            "context": {"contexts": record["CONTEXTS"], "labels": record["LABELS"]},
            "final_decision": record["final_decision"],
        }
        for name, record in records.items()
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "hub.parquet")
    hub = replace(task, file=str(tmp_path / "hub.parquet"))

    for split in ("train", "val"):
        bare = [replace(item, facts={}) for item in task.items(split).items]
        assert hub.items(split).items == bare  # the hub has no years
    assert ids(hub.held_out().items) == ids(task.held_out().items)


def test_a_question_that_cannot_be_asked_is_counted(tmp_path: Path) -> None:
    bad = {
        "3": {**RECORD, "QUESTION": " "},
        "4": {**RECORD, "CONTEXTS": ["", " "]},
        "5": {**RECORD, "QUESTION": "Does food help?"},
    }
    found = written(tmp_path, {"1": RECORD, **bad}, TRUTH).items("val")

    assert ids(found.items) == {"5"}
    assert found.rejects == Counter({"empty question": 1, "empty context": 1})


@pytest.mark.parametrize(
    ("records", "truth", "words"),
    [
        ([], TRUTH, "must be an object keyed by PMID"),
        ({"1": "text"}, TRUTH, "record 1 is not PubMedQA: it must be an object"),
        ({"1": {**RECORD, "QUESTION": None}}, TRUTH, "QUESTION must be text"),
        ({"1": {**RECORD, "final_decision": "perhaps"}}, TRUTH, "record 1: final_decision is 'per"),
        ({"1": {**RECORD, "final_decision": None}}, TRUTH, "record 1: final_decision is None"),
        ({"1": {**RECORD, "LABELS": ["METHODS"]}}, TRUTH, "lists of one length"),
        ({"1": {**RECORD, "CONTEXTS": {"contexts": []}}}, TRUTH, "lists of text"),
        ({"1": RECORD}, {"1": "yes", "9": "no"}, "lacks, the first is 9"),
        ({"1": RECORD}, {"1": "no"}, "another label .* the first is 1"),
        ({"1": {**RECORD, "QUESTION": ""}}, TRUTH, "test question 1 is of no use: empty question"),
        ({"1": RECORD}, {"1": "perhaps"}, r"labels \['perhaps'\]"),
        ({"1": RECORD}, [], "no ground truth"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, records: Any, truth: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        written(tmp_path, records, truth).held_out()


@pytest.mark.parametrize(
    "spelling",
    [
        "Does rest help?",
        "does REST help",
        "Does rest\u00a0help\uff1f",
        "\uff24\uff4f\uff45\uff53 rest help?",
        "Does re\u00adst he\u200blp?",
    ],
)
def test_a_test_question_under_another_pmid_is_not_learned(tmp_path: Path, spelling: str) -> None:
    others = {"2": {**RECORD, "QUESTION": spelling}, "3": {**RECORD, "QUESTION": "Does food?"}}
    task = written(tmp_path, {"1": RECORD, **others}, TRUTH)

    found = [task.items(split) for split in ("train", "val")]

    assert [item.id for items in found for item in items.items] == ["3"]
    assert found[0].rejects == Counter({"question of the test under another PMID": 1})


def test_a_validation_question_under_another_pmid_is_not_learned(tmp_path: Path) -> None:
    records = {str(n): {**RECORD, "QUESTION": f"Is it {n // 2}?"} for n in range(40)}
    task = written(tmp_path, records | {"99": RECORD}, {"99": "yes"})

    train, val = (
        {item.parts["question"] for item in task.items(split).items} for split in ("train", "val")
    )

    assert len(val) >= 2
    assert not train & val


def test_the_official_protocol_wants_the_official_number(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gives 10 test questions, protocol pqal-500-3way has 500"):
        many(tmp_path, protocol="pqal-500-3way").held_out()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"protocol": "pqal"}, "protocol is 'pqal'; allowed: pqal-500-3way"),
        ({"prompt": BARE}, "for a prompt without context"),
        ({"protocol": "own-3way-question-only"}, "for a prompt without context"),
        ({"fold": 10}, "fold must be .* at most 9, found 10"),
        ({"access": "secret"}, "access is 'secret'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        many(tmp_path, **settings)


def test_the_test_split_is_no_training_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'test'; allowed: train, val"):
        many(tmp_path).items("test")


@pytest.mark.parametrize(
    ("protocol", "test", "rest"),
    [
        ("pqal-500-3way", {"yes": 276, "no": 169, "maybe": 55}, 500),
        ("pqal-2way-445", {"yes": 276, "no": 169}, 445),
    ],
)
def test_the_official_questions(
    real_data: Path, protocol: str, test: dict[str, int], rest: int
) -> None:
    folder = real_data / "pubmedqa"
    task = PubMedQA(
        file=str(folder / "ori_pqal.json"),
        test_file=str(folder / "test_ground_truth.json"),
        prompt=PROMPT,
        protocol=protocol,
    )

    held_out, train, val = task.held_out(), task.items("train"), task.items("val")

    assert Counter(item.label for item in held_out.items) == test
    assert len(train.items) + len(val.items) == rest
    assert len(val.items) + val.rejects.total() == 50
    assert not ids(held_out.items) & (ids(train.items) | ids(val.items))
