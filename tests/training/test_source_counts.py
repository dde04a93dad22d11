"""Counts of what a run has trained on."""

import numpy as np
import pytest
import torch

from biomamba.data.batches import PIECE_DTYPE, Batch
from biomamba.training.module import SourceCounts

NAMES = ["pubmed", "c4", "web"]


def batch(rows: list[tuple[int, int]], pieces: list[tuple[int, int]]) -> Batch:
    """Return rows of (source, scored targets) made of pieces of (source, start)."""
    targets = torch.full((len(rows), 8), -100)
    for row, (_, num_targets) in enumerate(rows):
        targets[row, :num_targets] = 1
    zeros = torch.zeros_like(targets)
    records = [(0, source, 1, start, 4) for source, start in pieces]
    return Batch(
        input_ids=zeros,
        targets=targets,
        seq_idx=zeros.int(),
        source=torch.tensor([source for source, _ in rows]),
        num_bytes=zeros[:, 0],
        row_ids=zeros[:, 0],
        pieces=np.array(records, dtype=PIECE_DTYPE),
    )


STEP = [
    batch([(0, 8), (1, 5)], [(0, 0), (0, 0), (1, 0)]),
    batch([(0, 3), (0, 1)], [(0, 8), (0, 0)]),
]


def test_scored_tokens_and_begun_documents_are_counted_by_source() -> None:
    assert SourceCounts(NAMES, {}).of(STEP).tolist() == [[12, 5, 0], [3, 1, 0]]


def test_counts_add_up_to_the_realised_figures() -> None:
    counts = SourceCounts(NAMES, {"pubmed": 16, "c4": 100, "web": 0})
    for _ in range(4):
        counts.add(counts.of(STEP))
    assert counts.realised() == {
        "pubmed": {"tokens": 48, "share": 48 / 68, "epochs": 3.0, "documents": 12},
        "c4": {"tokens": 20, "share": 20 / 68, "epochs": 0.2, "documents": 4},
        "web": {"tokens": 0, "share": 0.0, "epochs": None, "documents": 0},
    }


def test_curves_hold_epochs_only_where_their_length_is_known() -> None:
    counts = SourceCounts(NAMES, {"pubmed": 16})
    counts.add(counts.of(STEP))
    curves = {name: float(value) for name, value in counts.curves().items()}
    assert curves == pytest.approx(
        {
            "data/tokens": 17.0,
            "data/token_share/pubmed": 12 / 17,
            "data/token_share/c4": 5 / 17,
            "data/token_share/web": 0.0,
            "data/epochs/pubmed": 0.75,
        }
    )


def test_counts_go_on_from_a_checkpoint() -> None:
    first, second = SourceCounts(NAMES, {}), SourceCounts(NAMES, {})
    first.add(first.of(STEP))
    second.load_state_dict(first.state_dict())
    second.add(second.of(STEP))
    assert second.realised()["pubmed"]["tokens"] == 24
    assert second.realised()["pubmed"]["documents"] == 6


def test_a_run_without_steps_has_no_shares() -> None:
    assert SourceCounts(["web"], {"web": 4}).realised()["web"]["share"] == 0.0
