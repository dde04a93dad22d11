"""Packing and repetition of the sources of a run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from biomamba.data.batches import PlannedSource
from biomamba.data.datamodule import Exposure, check_repetition, exposures
from biomamba.data.mixture import MixedRows, Mixture, SourceSize, TokenBudget
from biomamba.data.packing import SingleDocument
from biomamba.data.store.reader import TokenSplit, open_stores
from biomamba.runtime.errors import ConfigError


def test_exposure_counts_tokens_cuts_padding_and_epochs(write_store: Callable[..., Path]) -> None:
    # With their end-of-document token: 4, 8 and 12 tokens; in rows of 8 the last is cut in two.
    store = write_store("web", ["abc", "abcdefg", "abcdefghijk"])
    split = TokenSplit.open(open_stores([str(store)]), "train")
    source = PlannedSource(0, split, SingleDocument().plan(split.lengths, 8))
    rows = MixedRows(Mixture({"web": 1.0}, block_size=10), {"web": SourceSize(4, 24, 3)}, seed=1)
    budget = TokenBudget(max_tokens=80, tokens_per_step=8, seq_len=8, micro_batch_size=1)
    assert exposures({"web": source}, rows, budget) == {
        "web": Exposure(
            num_documents=3,
            num_tokens=24,
            num_dropped_tokens=0,
            num_cut_documents=1,
            padding_ratio=1 - 24 / 32,
            num_rows_drawn=10,
            epochs=10 / 4,
            num_target_tokens=24,
        )
    }


@pytest.mark.parametrize("num_samples", [0, 1, 99, 100, 257])
def test_rows_drawn_equal_those_that_are_located(num_samples: int) -> None:
    sizes = {name: SourceSize(50, 500, 50) for name in ("a", "b", "c")}
    mixture = Mixture({"a": 0.7, "b": 0.3, "c": 0.0}, unit="sequences", block_size=100)
    rows = MixedRows(mixture, sizes, seed=3)
    source, _, _ = rows.locate_many(np.arange(num_samples))
    located = np.bincount(source, minlength=3).tolist()
    assert list(rows.rows_drawn(num_samples).values()) == located


def test_too_much_repetition_names_every_source() -> None:
    found = {
        name: Exposure(1, 1, 0, 0, 0.0, 1, epochs, 1)
        for name, epochs in {"a": 4.125, "b": 1.0, "c": 9.0}.items()
    }
    check_repetition(found, None)
    check_repetition(found, 9.0)
    with pytest.raises(ConfigError, match=r"max_repetition is 4.0.*\{'a': 4.12, 'c': 9.0\}"):
        check_repetition(found, 4.0)
