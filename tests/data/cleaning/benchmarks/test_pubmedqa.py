"""PubMedQA items from an invented file of its layout, and from the real one."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from biomamba.data.cleaning.benchmarks import PubMedQA
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import sha256_of

RECORD: dict[str, Any] = {
    "QUESTION": "Does rest help?",
    "CONTEXTS": ["Forty people rested.", "Ten did not."],
    "LABELS": ["METHODS", "RESULTS"],
    "YEAR": None,
    "final_decision": "yes",
    "LONG_ANSWER": "Rest helps.",
}


def written(tmp_path: Path, content: Any) -> PubMedQA:
    path = tmp_path / "ori_pqal.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return PubMedQA(str(path))


def test_an_item_is_the_question_its_contexts_and_its_answer(tmp_path: Path) -> None:
    (item,) = written(tmp_path, {"123": RECORD}).items()

    assert item.id == "123"
    assert item.pmids == ["123"]
    assert item.texts == [
        "Does rest help?",
        "Forty people rested.",
        "Ten did not.",
        "Rest helps.",
    ]
    assert item.title is None


def test_the_settings_hold_the_hash_of_the_file_and_not_its_place(tmp_path: Path) -> None:
    benchmark = written(tmp_path, {"123": RECORD})

    digest = sha256_of(tmp_path / "ori_pqal.json")
    assert benchmark.fingerprints() == {"ori_pqal.json": f"sha256:{digest}"}
    assert str(tmp_path) not in str(benchmark.settings())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "must be an object keyed by PMID"),
        ({}, "must be an object keyed by PMID"),
        ({"1": {**RECORD, "LONG_ANSWER": None}}, "record 1 is not PubMedQA: LONG_ANSWER"),
        ({"1": {**RECORD, "CONTEXTS": {"contexts": []}}}, "record 1 is not PubMedQA: CONTEXTS"),
        ({"1": "text"}, "record 1 is not PubMedQA: it must be an object"),
        ({"1": {**RECORD, "QUESTION": " "}}, "record 1 is not PubMedQA: QUESTION"),
    ],
)
def test_a_file_of_another_layout_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        list(written(tmp_path, content).items())


def test_the_layout_of_the_hub_gives_the_same_items(tmp_path: Path) -> None:
    (expected,) = written(tmp_path, {"123": RECORD}).items()
    row = {"pubid": 123, "question": RECORD["QUESTION"], "long_answer": RECORD["LONG_ANSWER"]}
    row |= {"context": {"contexts": RECORD["CONTEXTS"], "labels": RECORD["LABELS"]}}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "hub.parquet")
    (tmp_path / "hub.jsonl").write_text(json.dumps(row) + "\n")

    for name in ("hub.parquet", "hub.jsonl"):
        benchmark = PubMedQA(str(tmp_path / name))
        assert list(benchmark.items()) == [expected]
        assert list(benchmark.fingerprints()) == [name]


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(DataError, match=r"no_such\.json does not exist"):
        PubMedQA("no_such.json").fingerprints()


def test_the_real_file_has_a_thousand_items(real_data: Path) -> None:
    items = list(PubMedQA(str(real_data / "pubmedqa" / "ori_pqal.json")).items())

    assert len({item.id for item in items}) == 1_000
    assert min(len(item.texts) for item in items) >= 3
