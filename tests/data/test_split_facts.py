"""Facts of chosen documents of several stores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biomamba.data.document import Document, DocumentFacts, document_key, facts_bytes
from biomamba.data.store.reader import find_facts
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import DataError

Write = Callable[[str, dict[str, DocumentFacts | None]], Path]


@pytest.fixture
def write(
    tmp_path: Path,
    write_corpus: Callable[..., Any],
    make_corpus: Callable[..., Any],
    byte_tokenizer: Tokenizer,
) -> Write:
    """Return write(name, facts by id): a store of two shards, all in its training split."""

    def _write(name: str, facts: dict[str, DocumentFacts | None]) -> Path:
        rows = [Document(f"text {id_}", id_, "x", facts=known) for id_, known in facts.items()]
        folder = tmp_path / name / "store"
        corpus = make_corpus([rows[::2], rows[1::2]])
        write_corpus(folder, corpus, byte_tokenizer, StorePolicy(0, 0))
        return folder

    return _write


def keys(*ids: str) -> Any:
    return np.array([document_key(id_) for id_ in ids], dtype=np.uint64)


def test_documents_are_found_by_key(write: Write) -> None:
    known = {str(n): DocumentFacts(2000 + n) for n in range(9)}
    store = write("a", {**known, "9": None})
    asked = keys("7", "2", "9", "not there")
    expected = {document_key(id_): DocumentFacts(2000 + int(id_)) for id_ in ("7", "2")}
    assert find_facts([store], "train", asked) == expected
    assert find_facts([store], "test", asked) == {}


def test_of_two_stores_the_first_that_knows_something_tells_it(write: Write) -> None:
    silent = write("silent", {"1": None, "2": None})
    first = write("first", {"1": DocumentFacts(1991), "2": None})
    second = write("second", {"1": DocumentFacts(1999), "2": DocumentFacts(2002)})
    found = find_facts([silent, first, second], "train", keys("1", "2"))
    assert found == {
        document_key("1"): DocumentFacts(1991),
        document_key("2"): DocumentFacts(2002),
    }


def test_facts_of_another_number_of_documents_are_refused(write: Write) -> None:
    store = write("a", {"1": DocumentFacts(1991), "2": None, "3": DocumentFacts(1992)})
    (store / "00000.train.facts").write_bytes(facts_bytes([DocumentFacts(1991)]) or b"")
    with pytest.raises(DataError, match=r"describes 1 documents, the split has 2"):
        find_facts([store], "train", keys("1"))
