"""Scores of single documents as files."""

from pathlib import Path

import numpy as np
import pytest

from biomamba.evaluation.document_scores import (
    ScoreOrigin,
    StoredScores,
    read_document_scores,
    write_document_scores,
)
from biomamba.evaluation.perplexity import DocumentScores
from biomamba.runtime.errors import DataError

ORIGIN = ScoreOrigin(
    source="pubmed",
    model="base",
    split="test",
    tokenizer="t" * 64,
    protocol={"seq_len": 1_024, "segments": None},
    provenance={"data_fingerprint": "abc"},
)


def make_stored(order: list[int]) -> StoredScores:
    keys = np.array([5, 2**64 - 1, 7], dtype=np.uint64)[order]
    nll = np.array([0.1, 1 / 3, 1e9])[order]
    num_tokens, num_bytes = np.array([3, 4, 5])[order], np.array([30, 40, 50])[order]
    return StoredScores(ORIGIN, keys, DocumentScores(nll, num_tokens, num_bytes))


def test_scores_come_back_bit_for_bit_in_the_order_of_the_keys(tmp_path: Path) -> None:
    path = write_document_scores(tmp_path / "new", make_stored([2, 1, 0]))
    found = read_document_scores(path)

    assert path.name == "pubmed.base.npz"
    assert found.origin == ORIGIN
    assert found.keys.tolist() == [5, 7, 2**64 - 1]
    assert found.scores.nll.tolist() == [0.1, 1e9, 1 / 3]
    assert found.scores.num_tokens.tolist() == [3, 5, 4]
    assert found.scores.num_bytes.tolist() == [30, 50, 40]


def test_the_order_of_the_documents_leaves_no_trace_in_the_file(tmp_path: Path) -> None:
    one = write_document_scores(tmp_path / "a", make_stored([0, 1, 2]))
    other = write_document_scores(tmp_path / "b", make_stored([1, 2, 0]))
    assert one.read_bytes() == other.read_bytes()


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    path = write_document_scores(tmp_path, make_stored([0, 1, 2]))
    content = path.read_bytes()
    for broken in (content[:-40], b"", b"text", content[:300] + b"\0\0\0\0" + content[304:]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"pubmed\.base\.npz: not a file of document scores"):
            read_document_scores(path)
    path.unlink()
    with pytest.raises(DataError, match="not a file of document scores"):
        read_document_scores(path)


def test_arrays_of_other_lengths_are_refused(tmp_path: Path) -> None:
    path = write_document_scores(tmp_path, make_stored([0, 1, 2]))
    with np.load(path) as found:
        arrays = dict(found)
    np.savez(path, **(arrays | {"nll": arrays["nll"][:2]}))
    with pytest.raises(DataError, match="differ in length"):
        read_document_scores(path)
