"""Documents in main memory: the same batches as from anywhere else, with what is only read."""

import pickle

import numpy as np
import pytest
import torch

from biomamba.data.batches import DocumentRows, PlannedSource, RowRequest, build_batch
from biomamba.data.document import document_key
from biomamba.data.packing import BestFit, Concat, Packing
from biomamba.data.store.reader import MemorySplit, Supervision

EOD = 0
DOCUMENTS = [[5, 6, 7, EOD], [8, EOD], [1, 2, 3, 4, EOD]]
SUPERVISION = Supervision(np.array([2, 1, 0]), np.array([1.0, 0.5, 2.0], dtype=np.float32))


def make(supervision: Supervision | None = SUPERVISION) -> MemorySplit:
    return MemorySplit(
        DOCUMENTS, EOD, ids=["a", "b", "c"], num_bytes=[3, 1, 4], supervision=supervision
    )


def test_documents_are_read_as_they_were_given() -> None:
    split = make()

    assert [split.tokens(number).tolist() for number in range(3)] == DOCUMENTS
    assert split.lengths.tolist() == [4, 2, 5]
    assert split.num_bytes.tolist() == [3, 1, 4]
    assert split.keys.tolist() == [document_key(name) for name in "abc"]


def test_a_copy_for_a_worker_reads_the_same() -> None:
    copy = pickle.loads(pickle.dumps(make()))

    assert copy.tokens(2).tolist() == DOCUMENTS[2]


@pytest.mark.parametrize("packing", [BestFit(), Concat()])
@pytest.mark.parametrize("seq_len", [3, 5, 11])
def test_what_is_only_read_changes_the_targets_alone(packing: Packing, seq_len: int) -> None:
    plain, masked = (
        build_batch(
            [
                RowRequest(PlannedSource(0, split, plan), row, row)
                for plan in [packing.plan(split.lengths, seq_len)]
                for row in range(plan.num_rows)
            ],
            seq_len,
            with_documents=True,
        )
        for split in (make(None), make())
    )

    for name in ("input_ids", "seq_idx", "num_bytes", "document"):
        assert torch.equal(getattr(plain, name), getattr(masked, name))
    assert plain.weights is None
    assert masked.weights is not None
    is_target = masked.targets >= 0
    assert torch.equal(is_target, masked.weights > 0)
    assert torch.equal(masked.targets[is_target], plain.targets[is_target])
    # Every target once: two of the first document, one of the second, all of the third.
    per_document = [int((is_target & (masked.document == number)).sum()) for number in range(3)]
    assert per_document == [2, 1, 5]
    for number, weight in enumerate(SUPERVISION.weights.tolist()):
        assert set(masked.weights[is_target & (masked.document == number)].tolist()) == {weight}


def test_the_first_target_follows_the_last_token_that_is_read() -> None:
    batch = DocumentRows(make(), seq_len=11, batch_size=1).batch(0)

    assert batch.input_ids[0].tolist() == [0, 1, 2, 3, 4, 0, 5, 6, 7, 0, 8]
    assert batch.targets[0].tolist() == [1, 2, 3, 4, 0, -100, -100, 7, 0, -100, 0]


def test_a_rank_without_rows_has_weights_too() -> None:
    empty = DocumentRows(make(), seq_len=11, batch_size=1).batch(7)

    assert empty.weights is not None
    assert not empty.weights.any()
    assert empty.num_target_tokens == 0
