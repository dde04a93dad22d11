"""The texts of a benchmark as documents."""

import json
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.cleaning.benchmarks import PubMedQA
from biomamba.data.corpora.benchmark_texts import BenchmarkTexts
from biomamba.data.document import Document
from biomamba.runtime.errors import DataError

RECORD: dict[str, Any] = {
    "QUESTION": "Does rest help?",
    "CONTEXTS": ["Forty people rested.", " "],
    "LONG_ANSWER": "Rest helps.",
}
BLANK: dict[str, Any] = {"QUESTION": " ", "CONTEXTS": [" "], "LONG_ANSWER": " "}


def corpus(folder: Path, records: dict[str, Any]) -> BenchmarkTexts:
    path = folder / "ori_pqal.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return BenchmarkTexts(benchmark=PubMedQA(str(path)), domain="pubmedqa", licence="MIT")


def test_an_item_is_one_document_named_by_its_pmid(tmp_path: Path) -> None:
    found = corpus(tmp_path, {"7": RECORD})
    (shard,) = found.shards()

    assert list(found.documents(shard)) == [
        Document("Does rest help?\n\nForty people rested.\n\nRest helps.", "7", "pubmedqa")
    ]


def test_an_item_without_text_is_refused(tmp_path: Path) -> None:
    found = corpus(tmp_path, {"8": BLANK})

    with pytest.raises(DataError, match=r"record 8 .*QUESTION must be text"):
        list(found.documents(found.shards()[0]))


def test_another_file_is_another_shard(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, same = (corpus(tmp_path / "a", {"7": RECORD}) for _ in range(2))
    other = corpus(tmp_path / "b", {"9": RECORD})

    assert first.shards()[0].fingerprint() == same.shards()[0].fingerprint()
    assert first.shards()[0].fingerprint() != other.shards()[0].fingerprint()
    assert first.settings() == other.settings()
