"""What a model scored on the items of one source or task."""

import math

import numpy as np
import pytest

from biomamba.evaluation.document_scores import ScoreOrigin, StoredScores
from biomamba.evaluation.perplexity import DocumentScores
from biomamba.evaluation.stored_run import bits_per_byte, scored_documents
from biomamba.runtime.errors import DataError


def make_stored(keys: list[int], num_bytes: list[int] | None = None) -> StoredScores:
    origin = ScoreOrigin(
        source="pubmed",
        model="base",
        split="test",
        tokenizer="t",
        protocol={"seq_len": 8},
        provenance={},
    )
    count = len(keys)
    nll = np.array(keys) * math.log(2)  # as many bits as the key says
    sizes = np.array(num_bytes or [4] * count)
    scores = DocumentScores(nll, np.full(count, 2), sizes)
    return StoredScores(origin, np.array(keys, dtype=np.uint64), scores)


def test_documents_are_named_by_key_and_size_and_drawn_by_key() -> None:
    scored = scored_documents(make_stored([7, 7, 7, 9], [4, 4, 5, 4]))
    assert len(set(scored.items)) == 4
    assert scored.units == [f"{key:016x}" for key in (7, 7, 7, 9)]
    assert scored.protocol == {"split": "test", "seq_len": 8}
    assert [measure.name for measure in scored.measures] == ["perplexity", "bits_per_byte"]
    assert scored.measure("bits_per_byte").value == 30 / 17


def test_items_are_put_into_the_order_of_another_model() -> None:
    one, other = scored_documents(make_stored([1, 2, 3])), scored_documents(make_stored([3, 1, 2]))
    turned = other.in_order_of(one)
    assert (turned.items, turned.units) == (one.items, one.units)
    for a, b in zip(turned.measures, one.measures, strict=True):
        assert (a.columns == b.columns).all()
    assert one.in_order_of(one) is one


@pytest.mark.parametrize(
    ("keys", "sizes", "message"),
    [
        ([1, 2, 3, 4], None, "3 and 4, 3 of them in both"),
        ([1, 2], None, "3 and 2, 2 of them in both"),
        ([1, 2, 4], None, "3 and 3, 2 of them in both"),
        ([1, 2, 3], [4, 4, 5], "3 and 3, 2 of them in both"),
    ],
)
def test_other_items_are_refused(keys: list[int], sizes: list[int] | None, message: str) -> None:
    one = scored_documents(make_stored([1, 2, 3]))
    other = scored_documents(make_stored(keys, sizes))
    with pytest.raises(DataError, match=f"pubmed: not the same items: {message}"):
        other.in_order_of(one)


def test_bits_per_byte_of_single_documents() -> None:
    scored = scored_documents(make_stored([8, 2, 5], [4, 8, 0]))
    assert bits_per_byte(scored)[:2].tolist() == [2.0, 0.25]
    assert math.isnan(bits_per_byte(scored)[2])
