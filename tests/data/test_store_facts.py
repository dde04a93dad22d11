"""What a model card needs to know of a store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.document import Document, DocumentFacts, document_key
from biomamba.data.store.format import CONTAMINATION_NAME, Manifest, StoreFacts
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import write_sealed

FIREWALL = {"benchmarks": {"qa": {"layout": "PubMedQA"}, "other": {}}, "min_ngrams": 3}


@pytest.fixture
def store(write_store: Callable[..., Path]) -> Path:
    return write_store("a", [f"document {i}" for i in range(40)])


def test_the_facts_are_those_of_the_training_split(store: Path) -> None:
    manifest, facts = Manifest.read(store), StoreFacts.read(store)

    train = manifest.totals["train"]
    assert (facts.documents, facts.tokens, facts.bytes) == (
        train.documents,
        train.tokens,
        train.bytes,
    )
    assert (facts.corpus, facts.domain, facts.licence) == (
        manifest.corpus,
        manifest.domain,
        manifest.licence,
    )
    assert (facts.dataset, facts.revision, facts.benchmarks) == (None, None, None)
    assert StoreFacts(**facts.as_record()) == facts


def test_a_hub_dataset_is_told_with_its_commit(store: Path) -> None:
    rows = {"dataset": f"owner/set@{'a' * 40}:en:train", "max_rows": None}
    manifest = replace(Manifest.read(store), settings={"rows": rows})

    facts = StoreFacts.of(manifest, store)
    assert (facts.dataset, facts.revision) == ("owner/set", "a" * 40)


@pytest.mark.parametrize("is_its_own", [True, False])
def test_counts_of_benchmarks_come_from_the_report_of_the_store_only(
    store: Path, is_its_own: bool
) -> None:
    manifest = replace(Manifest.read(store), cleaning={"firewall": FIREWALL})
    firewall = FIREWALL if is_its_own else {**FIREWALL, "min_ngrams": 5}
    counts = {"items": 7, "items_found": 2, "documents": {}}
    report = {"settings": {"firewall": firewall}, "benchmarks": {"qa": counts}}
    write_sealed(store.parent / CONTAMINATION_NAME, report)

    expected = {"items": 7, "items_found": 2} if is_its_own else {}
    assert StoreFacts.of(manifest, store).benchmarks == {"qa": expected, "other": {}}


def test_the_newest_year_is_that_of_the_training_split(
    tmp_path: Path,
    make_corpus: Callable[..., Any],
    write_corpus: Callable[..., Manifest],
    byte_tokenizer: Tokenizer,
) -> None:
    policy = StorePolicy(val_permille=0, test_permille=500)
    documents = [
        Document(f"text {i}", str(i), "x", facts=DocumentFacts(1990 + i % 30)) for i in range(60)
    ]
    training = [i for i in range(60) if policy.rule.split_of(document_key(str(i))) == "train"]
    documents.append(Document("of later", _id_in("test", policy), "x", facts=DocumentFacts(2100)))
    folder = tmp_path / "set" / "a"
    write_corpus(folder, make_corpus([documents[::2], documents[1::2]]), byte_tokenizer, policy)
    assert StoreFacts.read(folder).newest_year == max(1990 + i % 30 for i in training)


def _id_in(split: str, policy: StorePolicy) -> str:
    return next(
        str(n) for n in range(100, 200) if policy.rule.split_of(document_key(str(n))) == split
    )


def test_without_years_there_is_no_newest_one(store: Path) -> None:
    assert StoreFacts.read(store).newest_year is None


def test_a_missing_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        StoreFacts.read(tmp_path / "none")
