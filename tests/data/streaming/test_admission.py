"""The split and the firewall of single documents."""

import json
from pathlib import Path

import pytest

from biomamba.data.cleaning.benchmark_filter import Firewall
from biomamba.data.cleaning.benchmarks import TextColumns
from biomamba.data.document import SPLITS, Document, SplitRule, document_key
from biomamba.data.streaming.source import Admission

RULE = SplitRule(val_permille=300, test_permille=200)
ADMISSION = Admission(RULE, Firewall())
ITEM = " ".join(f"word{number}" for number in range(40))


def test_a_document_is_of_one_split_that_of_its_key() -> None:
    for number in range(50):
        document = Document("text", str(number), "test")
        splits = [split for split in SPLITS if ADMISSION.is_of(split, document)]
        assert splits == [RULE.split_of(document_key(str(number)))]


def test_documents_of_a_group_share_a_split() -> None:
    documents = [Document("text", str(number), "test", "patient") for number in range(50)]
    expected = RULE.split_of(document_key("patient"))
    assert all(ADMISSION.is_of(expected, document) for document in documents)


def test_an_overlong_document_is_of_no_split() -> None:
    limited = Admission(RULE, Firewall(), max_document_characters=4)
    for number in range(50):
        document, longer = (Document(text, str(number), "test") for text in ("text", "texts"))
        splits = [split for split in SPLITS if ADMISSION.is_of(split, document)]
        assert [split for split in SPLITS if limited.is_of(split, document)] == splits
        assert not any(limited.is_of(split, longer) for split in SPLITS)
    assert limited.settings() == ADMISSION.settings() | {"max_document_characters": 4}


@pytest.fixture
def guarded(tmp_path: Path) -> Admission:
    """Keep out a benchmark of one item of 40 words."""
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps({"question": ITEM}) + "\n")
    benchmark = TextColumns([str(file)], text_columns=["question"])
    return Admission(RULE, Firewall({"house": benchmark}))


def test_documents_with_an_item_of_a_benchmark_are_left_out(guarded: Admission) -> None:
    texts = ["something else", f"before {ITEM} after", "more", ITEM.upper()]
    documents = [Document(text, str(i), "test") for i, text in enumerate(texts)]
    assert [d.id for d in guarded.without_benchmarks(documents)] == ["0", "2"]


def test_the_batch_does_not_matter(guarded: Admission) -> None:
    texts = [f"{i} {ITEM if i % 3 == 0 else 'nothing'}" for i in range(20)]
    documents = [Document(text, str(i), "test") for i, text in enumerate(texts)]
    alone = [d for document in documents for d in guarded.without_benchmarks([document])]
    assert guarded.without_benchmarks(documents) == alone
    assert len(alone) == 13


def test_the_benchmark_is_part_of_the_settings(guarded: Admission) -> None:
    assert guarded.settings() != ADMISSION.settings()
    json.dumps(guarded.settings())
