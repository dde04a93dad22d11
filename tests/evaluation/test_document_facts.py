"""Facts of scored documents: kept by key, found damaged, gone with their stores."""

from pathlib import Path

import numpy as np
import pytest

from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.corpora.table import ColumnCorpus
from biomamba.data.document import DocumentFacts, MeshTerm, document_key
from biomamba.data.prepare.pipeline import prepare
from biomamba.data.rows import LocalRows
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import ByteLevel
from biomamba.evaluation.document_scores import (
    ScoreOrigin,
    StoredScores,
    read_document_facts,
    write_document_facts,
)
from biomamba.evaluation.perplexity import DocumentScores
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import write_sealed


def write_store(folder: Path, year_column: str | None) -> str:
    folder.mkdir()
    path = folder / "rows.csv"
    lines = [f"{i},text {i},{1990 + i if i % 3 else ''}" for i in range(12)]
    path.write_text("\n".join(["id,text,year", *lines]) + "\n")
    rows = LocalRows([str(path)])
    corpus = ColumnCorpus(rows, "x", "none", ["text"], "id", year_column=year_column)
    prepare(folder / "set", {"a": corpus}, ByteLevel(), StorePolicy(0, 0), Cleaning())
    return str(folder / "set" / "a")


def stored(*ids: str) -> StoredScores:
    origin = ScoreOrigin(
        source="pubmed",
        model="base",
        split="train",
        tokenizer="t",
        protocol={},
        provenance={"data_fingerprint": "f"},
    )
    keys = np.array([document_key(each) for each in ids], dtype=np.uint64)
    ones = np.ones(len(ids))
    scores = DocumentScores(ones, ones.astype(np.int64), ones.astype(np.int64))
    return StoredScores(origin, keys, scores)


def test_facts_of_the_scored_documents_are_kept_by_their_keys(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a", "year")
    path = write_document_facts(tmp_path / "facts", stored("4", "3", "11"), [store])

    assert path == tmp_path / "facts" / "pubmed.json"
    found = read_document_facts(path)
    assert (found.source, found.data_fingerprint) == ("pubmed", "f")
    expected = {"4": DocumentFacts(1994), "3": DocumentFacts(None), "11": DocumentFacts(2001)}
    assert found.facts == {f"{document_key(i):016x}": known for i, known in expected.items()}


def test_descriptors_come_back(tmp_path: Path) -> None:
    mesh = [["D009369", "Neoplasms"], ["", "A name of words"]]
    content = {
        "source": "s",
        "data_fingerprint": None,
        "descriptors": [f"{ui} {name}" for ui, name in mesh],
        "documents": {"0" * 16: "2001 1 0*", "1" * 16: "- 1"},
    }
    write_sealed(tmp_path / "s.json", content)
    words = MeshTerm("", "A name of words")
    assert read_document_facts(tmp_path / "s.json").facts == {
        "0" * 16: DocumentFacts(2001, (words, MeshTerm("D009369", "Neoplasms", is_major=True))),
        "1" * 16: DocumentFacts(None, (words,)),
    }


def test_without_facts_no_file_stays(tmp_path: Path) -> None:
    with_years, without = (
        write_store(tmp_path / name, year) for name, year in (("a", "year"), ("b", None))
    )
    assert write_document_facts(tmp_path / "facts", stored("4"), [with_years]) is not None
    assert write_document_facts(tmp_path / "facts", stored("4"), [without]) is None
    assert list((tmp_path / "facts").iterdir()) == []


def test_a_flipped_bit_is_named(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a", "year")
    path = write_document_facts(tmp_path, stored("4"), [store])
    assert path is not None
    path.write_text(path.read_text().replace("1994", "1995"))
    with pytest.raises(DataError, match=r"pubmed\.json is damaged"):
        read_document_facts(path)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"source": "s", "data_fingerprint": None, "descriptors": [], "documents": {"a": "2001 0"}},
        {"source": "s", "data_fingerprint": None, "descriptors": [], "documents": []},
    ],
)
def test_what_is_no_such_file_is_refused(content: dict[str, object], tmp_path: Path) -> None:
    write_sealed(tmp_path / "s.json", content)
    with pytest.raises(DataError, match="not a file of document facts"):
        read_document_facts(tmp_path / "s.json")
