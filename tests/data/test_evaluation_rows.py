"""Evaluation rows: every document once, for any number of ranks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from biomamba.data.batches import Batch, EvaluationRows, open_evaluation_rows
from biomamba.data.document import document_key
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import DataError

TEXTS = [f"document {i} " + "ab" * (i % 37) for i in range(80)]
POLICY = StorePolicy(val_permille=300, test_permille=400)


@pytest.fixture
def store(write_store: Callable[..., Path]) -> str:
    return str(write_store("a", TEXTS, num_shards=2, policy=POLICY))


def open_rows(store: str, max_documents: int | None = None) -> EvaluationRows:
    return open_evaluation_rows(
        [store], split="test", seq_len=32, batch_size=3, max_documents=max_documents
    )


def texts_by_key() -> dict[int, str]:
    return {document_key(f"a-{i}"): text for i, text in enumerate(TEXTS)}


def tokens_by_document(batches: list[Batch], num_documents: int) -> list[list[int]]:
    """Collect the targets of every document, in the order they are met."""
    tokens: list[list[int]] = [[] for _ in range(num_documents)]
    for batch in batches:
        assert batch.document is not None
        scored = batch.targets >= 0
        for document, target in zip(batch.document[scored], batch.targets[scored], strict=True):
            tokens[int(document)].append(int(target))
    return tokens


def test_every_document_of_the_split_is_scored_once_and_whole(
    store: str, byte_tokenizer: Tokenizer
) -> None:
    rows = open_rows(store)
    scored = tokens_by_document(list(rows.batches()), len(rows.num_bytes))
    texts = [texts_by_key()[int(key)] for key in rows.keys]
    # A cut document is met in pieces whose order is that of the packing, not of the text.
    assert [sorted(tokens) for tokens in scored] == [
        sorted([*byte_tokenizer.encode(text), 0]) for text in texts
    ]
    assert rows.num_bytes.tolist() == [len(text) for text in texts]
    assert POLICY.rule.indices(rows.keys).tolist() == [2] * len(texts)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_share_the_rows_and_get_equally_many_batches(world_size: int, store: str) -> None:
    rows = open_rows(store)
    loaders = [rows.loader(rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [list(loader) for loader in loaders]
    assert len({len(part) for part in batches}) == 1
    ids = [int(i) for part in batches for batch in part for i in batch.row_ids if i >= 0]
    whole = [int(i) for batch in rows.batches() for i in batch.row_ids]
    assert sorted(ids) == sorted(whole) == list(range(len(whole)))
    num_bytes = sum(int(batch.num_bytes.sum()) for part in batches for batch in part)
    assert num_bytes == rows.num_bytes.sum()


def test_a_surplus_batch_scores_nothing(store: str) -> None:
    rows = open_rows(store)
    surplus = rows.batch(rows.num_batches)
    assert surplus.num_target_tokens == 0
    assert surplus.document is not None
    assert torch.equal(surplus.document, torch.full_like(surplus.document, -1))


def test_a_limit_takes_the_smallest_keys_and_renumbers(store: str) -> None:
    rows, all_rows = open_rows(store, max_documents=5), open_rows(store)
    assert sorted(rows.keys) == sorted(all_rows.keys)[:5]
    documents = {int(d) for batch in rows.batches() for d in np.unique(batch.document)}
    assert documents - {-1} == set(range(5))


def test_fingerprints_tell_selections_apart(store: str) -> None:
    assert open_rows(store).fingerprint == open_rows(store).fingerprint
    assert open_rows(store).fingerprint != open_rows(store, max_documents=5).fingerprint


def test_a_progress_line_goes_to_stderr(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    list(open_rows(store).batches("scoring a"))
    captured = capsys.readouterr()
    assert "scoring a" in captured.err
    assert not captured.out


def test_workers_give_the_same_batches(store: str) -> None:
    rows = open_rows(store)
    before = torch.get_rng_state()
    loaded = list(rows.loader(rank=0, world_size=1, num_workers=1))
    assert torch.equal(torch.get_rng_state(), before)  # it belongs to the training
    for batch, expected in zip(loaded, rows.batches(), strict=True):
        assert torch.equal(batch.input_ids, expected.input_ids)


def test_an_empty_split_says_what_to_change(write_store: Callable[..., Path]) -> None:
    store = str(write_store("b", ["text"]))
    with pytest.raises(DataError, match=r"test split of .* is empty; .*split\.test_permille"):
        open_rows(store)


def test_a_damaged_store_is_refused(store: str) -> None:
    path = Path(store) / "00000.test.bin"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"00000\.test\.bin"):
        open_rows(store)
