"""Random access to the documents of pooled stores."""

import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from biomamba.data.document import document_key
from biomamba.data.store.reader import TokenSplit, open_stores
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import Tokenizer

TEXTS = [f"text number {i} " + "x" * i for i in range(11)]


@pytest.fixture
def pooled(write_store: Callable[..., Path]) -> TokenSplit:
    folders = [write_store("a", TEXTS, num_shards=3), write_store("b", ["only"])]
    return TokenSplit.open(open_stores([str(folder) for folder in folders]), "train")


def order() -> list[str]:
    """Texts in the order of the stores and their three shards."""
    return [*TEXTS[0::3], *TEXTS[1::3], *TEXTS[2::3], "only"]


def test_documents_come_back_in_the_order_of_stores_and_shards(
    pooled: TokenSplit, byte_tokenizer: Tokenizer
) -> None:
    stored = [pooled.tokens(i).tolist() for i in range(len(pooled))]
    assert stored == [[*byte_tokenizer.encode(text), 0] for text in order()]


def test_lengths_bytes_and_keys_belong_to_the_documents(pooled: TokenSplit) -> None:
    assert pooled.lengths.tolist() == [len(text) + 1 for text in order()]
    assert pooled.num_bytes.tolist() == [len(text) for text in order()]
    assert pooled.keys[-1] == document_key("b-0")


def test_parts_of_documents_are_slices(pooled: TokenSplit) -> None:
    documents, starts, lengths = np.array([[2, 9, 2], [3, 0, 0], [4, 1, 5]])
    assert [part.tolist() for part in pooled.parts(documents, starts, lengths)] == [
        pooled.tokens(2).tolist()[3:7],
        pooled.tokens(9).tolist()[:1],
        pooled.tokens(2).tolist()[:5],
    ]


def test_tokens_are_views_of_the_file_that_cannot_be_written(pooled: TokenSplit) -> None:
    first, again = pooled.tokens(0), pooled.tokens(0)
    assert np.shares_memory(first, again)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_a_pickled_split_carries_no_tokens(pooled: TokenSplit) -> None:
    pooled.tokens(0)
    copy = pickle.loads(pickle.dumps(pooled))
    assert not copy._maps
    assert copy.tokens(5).tolist() == pooled.tokens(5).tolist()


def test_no_file_stays_open(write_store: Callable[..., Path]) -> None:
    store = write_store("a", [f"text {i}" for i in range(90)], num_shards=30)
    pooled = TokenSplit.open(open_stores([str(store)]), "train")
    before = num_open_files()
    for document in range(len(pooled)):
        pooled.tokens(document)
    assert len(pooled._maps) == 30
    assert num_open_files() == before


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_first_by_key_takes_the_smallest_keys_in_place(pooled: TokenSplit) -> None:
    sample = pooled.first_by_key(7)
    smallest = set(np.sort(pooled.keys)[:7].tolist())
    expected = [i for i in range(len(pooled)) if int(pooled.keys[i]) in smallest]
    assert [sample.tokens(i).tolist() for i in range(7)] == [
        pooled.tokens(i).tolist() for i in expected
    ]


@pytest.mark.parametrize("limit", [None, 12, 99])
def test_first_by_key_without_a_limit_takes_all(limit: int | None, pooled: TokenSplit) -> None:
    assert len(pooled.first_by_key(limit)) == 12


def test_splits_are_disjoint_and_complete(write_store: Callable[..., Path]) -> None:
    texts = [f"t{i}" for i in range(50)]
    stores = open_stores([str(write_store("a", texts, policy=StorePolicy(300, 300)))])
    keys = [set(TokenSplit.open(stores, split).keys.tolist()) for split in ("train", "val", "test")]
    assert sum(map(len, keys)) == len(set().union(*keys)) == 50


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="'dev'"):
        TokenSplit.open([], "dev")


def test_the_first_tokens_are_whole_documents_in_the_order_of_keys(pooled: TokenSplit) -> None:
    order = np.argsort(pooled.keys)
    three = int(pooled.lengths[order[:3]].sum())

    for limit in (three, three + int(pooled.lengths[order[3]]) - 1):
        chosen = pooled.first_tokens_by_key(limit)
        assert sorted(chosen.keys.tolist()) == sorted(pooled.keys[order[:3]].tolist())
        assert int(chosen.lengths.sum()) == three
    assert len(pooled.first_tokens_by_key(three - 1)) == 2


def test_fewer_tokens_are_a_subset_of_more(pooled: TokenSplit) -> None:
    total = int(pooled.lengths.sum())
    kept = [set(pooled.first_tokens_by_key(n).keys.tolist()) for n in range(total + 1)]

    assert all(fewer <= more for fewer, more in pairwise(kept))
    assert kept[0] == set()
    assert kept[-1] == set(pooled.keys.tolist())
