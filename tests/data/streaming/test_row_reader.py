"""The rows of one reader: full, of one source each, shares as the mixture has them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from biomamba.data.batches import IGNORED_TARGET, lay_out
from biomamba.data.mixture import Mixture, Stage, TokenBudget
from biomamba.data.streaming.readers import RowPart, RowReader, StreamPlan, endless_order, join
from biomamba.runtime.errors import ConfigError

Make = Callable[..., Any]


def step_rows(plan: StreamPlan, num_steps: int) -> list[RowPart]:
    readers = [RowReader(plan, reader, {}) for reader in range(4)]
    return [join([reader.rows(step) for reader in readers]) for step in range(num_steps)]


def test_every_row_is_full_and_of_one_source(make_plan: Make) -> None:
    for part in step_rows(make_plan(), 10):
        pieces = part.contents.pieces
        tokens = np.bincount(pieces["row"], weights=pieces["tokens"])
        assert tokens.tolist() == [64] * 8
        assert (pieces["source"] == part.source[pieces["row"]]).all()


def test_the_readers_share_the_rows_of_a_step_in_order(make_plan: Make) -> None:
    for step, part in enumerate(step_rows(make_plan(), 3)):
        assert part.row_ids.tolist() == list(range(step * 8, step * 8 + 8))


def test_token_shares_hold_on_uneven_lengths(make_plan: Make) -> None:
    # 1,600 rows of 64 tokens are eight blocks; documents have from 7 to 400 tokens.
    parts = step_rows(make_plan(budget=TokenBudget(200 * 512, 512, 64, 2)), 200)
    source = np.concatenate([part.source for part in parts])
    shares = np.bincount(source) / len(source)
    assert np.abs(shares - [0.8, 0.1, 0.1]).max() <= 0.005
    # Any prefix holds them to about a row of each source.
    rows = np.arange(1, len(source) + 1)
    for index, weight in enumerate((0.8, 0.1, 0.1)):
        excess = np.cumsum(source == index) - weight * rows
        assert np.abs(excess).max() <= 2


def test_stages_change_the_shares(make_plan: Make) -> None:
    budget = TokenBudget(100 * 512, 512, 64, 2)
    mixture = Mixture({"a": 1.0, "b": 0.0}, stages=[Stage(50 * 512, {"a": 0.0, "b": 1.0})])
    order = endless_order(mixture, ["a", "b"], budget, 1)
    source, _, _ = order.locate_many(np.arange(800))
    assert source.tolist() == [0] * 400 + [1] * 400


def test_a_mixture_of_documents_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokens or sequences only"):
        endless_order(Mixture({"a": 1.0}, unit="documents"), ["a"], TokenBudget(1, 1, 1, 1), 1)


def test_rows_become_batches_as_those_of_the_stores(make_plan: Make) -> None:
    plan = make_plan()
    eod_id = plan.settings.tokenizer.eod_id
    part = step_rows(plan, 3)[2]
    batch = lay_out(
        part.contents, source=part.source, row_ids=part.row_ids, seq_len=64, eod_id=eod_id
    )
    inputs, targets = batch.input_ids.numpy(), batch.targets.numpy()
    assert (targets != IGNORED_TARGET).all()
    # EOD ends a document and starts the next, so inputs are the targets moved by one.
    assert (inputs[:, 1:] == targets[:, :-1]).all()
    is_new = np.diff(batch.seq_idx.numpy(), axis=1) == 1
    assert (is_new == (targets[:, :-1] == eod_id)).all()
    assert (batch.seq_idx[:, 0] == 0).all()
    begins = batch.pieces["start"] == 0
    assert (part.contents.num_bytes[begins] > 0).all()
    assert batch.num_bytes.sum() == part.contents.num_bytes.sum()


def test_readers_go_on_at_their_positions(make_plan: Make) -> None:
    plan = make_plan()
    whole = RowReader(plan, 2, {})
    for step in range(5):
        whole.rows(step)
    again = RowReader(plan, 2, whole.positions)
    for step in range(5, 12):
        expected, found = whole.rows(step), again.rows(step)
        assert (found.contents.pieces == expected.contents.pieces).all()
        assert all(
            (a == b).all()
            for a, b in zip(found.contents.tokens, expected.contents.tokens, strict=True)
        )


def test_a_source_without_weight_is_never_read(make_plan: Make) -> None:
    reader = RowReader(make_plan(weights={"short": 0.0, "long": 0.5, "mixed": 0.5}), 0, {})
    for step in range(20):
        reader.rows(step)
    assert reader.positions["short"] == [0, 0, 0, 0, 0]
    assert reader.positions["long"] != [0, 0, 0, 0, 0]
