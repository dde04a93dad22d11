"""Documents in stores."""

from collections.abc import Callable
from pathlib import Path

import pytest

from biomamba.data.document import SPLITS, document_key
from biomamba.data.store.reader import StoredDocument, TokenSplit, find_document, open_stores
from biomamba.data.store.writer import StorePolicy
from biomamba.runtime.errors import DataError

TEXTS = ["x" * length for length in range(1, 101)]


def test_every_document_is_found_in_its_store_and_split(write_store: Callable[..., Path]) -> None:
    policy = StorePolicy(val_permille=200, test_permille=200)
    # The first store lacks some of the splits in one of its shards.
    few = str(write_store("few", TEXTS[:3], num_shards=2, policy=policy))
    many = str(write_store("many", TEXTS, num_shards=3, policy=policy))
    seen = []
    for number, text in enumerate(TEXTS):
        key = document_key(f"many-{number}")
        found = find_document([few, many], key)
        assert found is not None
        assert (found.folder, found.tokens) == (many, len(text) + 1)
        assert key in TokenSplit.open(open_stores([many]), found.split).keys
        seen.append(found.split)
    assert set(seen) == set(SPLITS)
    first = find_document([few, many], document_key("few-0"))
    assert isinstance(first, StoredDocument)
    assert first.folder == few


def test_a_document_that_no_store_holds_is_not_found(write_store: Callable[..., Path]) -> None:
    assert find_document([str(write_store("web", TEXTS))], document_key("web-100")) is None


def test_a_missing_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone does not exist"):
        find_document([str(tmp_path / "gone")], 1)
