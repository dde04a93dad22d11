"""Planned rows of any documents: the steps depend on neither ranks nor micro-batches."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from biomamba.data.batches import Batch, DocumentRows
from biomamba.data.datamodule import PlannedData
from biomamba.data.mixture import Mixture, TokenBudget
from biomamba.data.packing import BestFit
from biomamba.data.store.reader import MemorySplit, Supervision
from biomamba.runtime.errors import ConfigError

LENGTHS = {"short": [3, 2, 4, 3, 2, 4, 3, 2], "long": [8, 7, 6]}
STEPS = 6


def documents(name: str) -> MemorySplit:
    lengths = LENGTHS[name]
    supervision = Supervision(np.array(lengths) // 2, np.ones(len(lengths), dtype=np.float32))
    return MemorySplit(
        [[*range(1, length), 0] for length in lengths],
        0,
        ids=[f"{name}-{number}" for number in range(len(lengths))],
        num_bytes=[1] * len(lengths),
        supervision=supervision,
    )


class Planned(PlannedData):
    """Two sources in memory."""

    fingerprint, tokenizer_fingerprint, vocab_size = "stream", "tokens", 9  # type: ignore[assignment]
    store_folders: ClassVar = {}  # type: ignore[misc]

    def __init__(self, micro_batch_size: int = 1, **options: Any) -> None:
        budget = TokenBudget(STEPS * 32, 32, 8, micro_batch_size)
        weights = options.pop("weights", {"short": 0.5, "long": 0.5})
        mixture = Mixture(weights, "sequences", 4)
        options = {"seed": 1, "max_repetition": None, "num_workers": 0} | options
        super().__init__(budget, LENGTHS, mixture, BestFit(), **options)

    def training_split(self, name: str) -> MemorySplit:
        return documents(name)

    def validation_rows(self, index: int, name: str) -> DocumentRows:
        return DocumentRows(documents(name), seq_len=8, batch_size=2, source_index=index)

    def save_tokenizer(self, path: Path) -> None:
        path.write_text("{}")


def joined(parts: list[Batch]) -> dict[str, torch.Tensor]:
    names = ("input_ids", "targets", "seq_idx", "source", "row_ids", "weights")
    return {name: torch.cat([getattr(part, name) for part in parts]) for name in names}


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_the_ranks_together_get_the_rows_of_one(world_size: int, micro_batch_size: int) -> None:
    alone = Planned().steps(rank=0, world_size=1)
    data = Planned(micro_batch_size)
    ranks = [data.steps(rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(STEPS):
        found = joined([part for rank in ranks for part in rank[step]])
        for name, expected in joined(alone[step]).items():
            assert torch.equal(found[name], expected), name


def test_the_loader_goes_on_behind_the_steps_of_a_checkpoint() -> None:
    whole, resumed = Planned(), Planned()
    resumed.load_state_dict({"consumed_steps": 4, "fingerprint": "stream"})
    expected = [joined(step) for step in whole.train_dataloader()][4:]
    found = [joined(step) for step in resumed.train_dataloader()]
    assert len(found) == 2
    for mine, wanted in zip(found, expected, strict=True):
        for name in wanted:
            assert torch.equal(mine[name], wanted[name])


def test_a_source_without_a_share_is_validated_only() -> None:
    data = Planned(weights={"short": 1.0, "long": 0.0})
    assert data.exposures["long"].num_rows_drawn == 0
    assert sum(batch.num_target_tokens for batch in data.val_dataloader()[1]) == 4 + 4 + 3


def test_the_targets_of_a_source_are_counted_without_what_is_only_read() -> None:
    exposures = Planned().exposures
    assert exposures["short"].num_tokens == 23
    assert exposures["short"].num_target_tokens == 2 + 1 + 2 + 2 + 1 + 2 + 2 + 1
    assert exposures["long"].num_target_tokens == 4 + 4 + 3


def test_too_many_passes_over_a_source_are_refused() -> None:
    # 24 rows, half of them of three documents that fill a row each.
    with pytest.raises(ConfigError, match=r"\{'short': 4\.0, 'long': 4\.0\}"):
        Planned(max_repetition=3.5).setup()
