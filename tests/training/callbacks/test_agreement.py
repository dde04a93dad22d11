"""Ranks that come apart are named; healthy ones are left alone, however many there are."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from biomamba.data.datamodule import TrainingData
from biomamba.data.mixture import Mixture, TokenBudget
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import TrainingError
from biomamba.training.callbacks.preemption import (
    OWN,
    SHARED,
    Agreement,
    checksum,
    difference,
    misplaced_rows,
)
from biomamba.training.checkpoint_io import DurableCheckpointIO
from biomamba.training.module import LanguageModelingModule, Objective
from biomamba.training.optimizer import AdamW, Constant

ROWS_PER_STEP = 8


def figures(**changes: int) -> dict[str, int]:
    same = dict.fromkeys(SHARED, 7) | dict.fromkeys(OWN, 0)
    return same | {name.replace("_", " "): value for name, value in changes.items()}


def test_equal_ranks_agree() -> None:
    assert difference([figures()] * 3) is None


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("rank", [0, 2])
def test_the_rank_that_differs_is_named(name: str, rank: int) -> None:
    table = [figures() for _ in range(3)]
    table[rank][name] = 1_234
    assert difference(table) == f"{name}: rank {rank} (1,234), the others 7"


def test_all_differences_are_named() -> None:
    found = difference([figures(), figures(), figures(step=8), figures(weights=9)])
    assert found == "step: rank 2 (8), the others 7; weights: rank 3 (9), the others 7"


def row_table(*shares: tuple[int, int, int]) -> list[dict[str, int]]:
    return [dict(zip(OWN, share, strict=True)) for share in shares]


def test_rows_that_are_those_of_the_step_are_accepted() -> None:
    assert misplaced_rows(row_table((16, 4, 0), (20, 4, 0)), 16, ROWS_PER_STEP) is None


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ((16, 4, 0), "rank 1 trained on 4 rows from 16 on with 0 gaps, its part are 4 from 20"),
        ((20, 3, 0), "rank 1 trained on 3 rows"),
        ((20, 4, 1), "1 gaps"),
    ],
)
def test_rows_of_another_part_are_refused(second: tuple[int, int, int], message: str) -> None:
    found = misplaced_rows(row_table((16, 4, 0), second), 16, ROWS_PER_STEP)
    assert found is not None
    assert message in found
    assert "rank 0" not in found


@pytest.mark.parametrize("seed", range(5))
def test_one_changed_bit_changes_the_checksum(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(3, 5, generator=generator), torch.arange(3), torch.tensor([True])]
    before = checksum(tensors)
    assert checksum([tensor.clone() for tensor in tensors]) == before
    for tensor in (tensors[0].view(torch.int32), tensors[1]):
        place = tuple(int(torch.randint(size, (), generator=generator)) for size in tensor.shape)
        tensor[place] ^= 1 << int(torch.randint(31, (), generator=generator))
        assert checksum(tensors) != before
        before = checksum(tensors)


def test_sharded_tensors_are_left_out_of_the_checksum() -> None:
    torch.distributed.init_process_group(
        "gloo", rank=0, world_size=1, store=torch.distributed.HashStore()
    )
    try:
        mesh = init_device_mesh("cpu", (1,))
        weight = torch.randn(4, 3)
        whole = distribute_tensor(weight, mesh, [Replicate()])
        sharded = distribute_tensor(weight, mesh, [Shard(0)])
        assert checksum([whole]) == checksum([weight]) != 0
        assert checksum([whole, sharded]) == checksum([weight])
    finally:
        torch.distributed.destroy_process_group()


class Stream(TrainingData):
    """Steps of eight rows, of which two are consumed."""

    fingerprint, tokenizer_fingerprint, vocab_size = "stream", "tokens", 16  # type: ignore[assignment]
    store_folders, exposures = {}, {}  # type: ignore[assignment]

    def __init__(self) -> None:
        budget = TokenBudget(10 * ROWS_PER_STEP * 4, ROWS_PER_STEP * 4, 4, 2)
        super().__init__(budget, ["web"], Mixture({"web": 1.0}))
        self.load_state_dict({"consumed_steps": 2, "fingerprint": "stream"})

    def save_tokenizer(self, path: Path) -> None:
        path.write_text("{}")


class Ranks:
    """Two ranks in one process: the first is asked, `other` is the row of the second one."""

    def __init__(self, other: Callable[[Tensor], Tensor]) -> None:
        config = Mamba2Config(d_model=8, n_layer=1, vocab_size=16, d_state=4, headdim=4)
        self.module = LanguageModelingModule(
            MambaLM(config, ReferenceScan()),
            AdamW(lr=0.1, weight_decay=0.0),
            Constant(total_tokens=10),
            {"web": 1.0},
            Objective(),
            tokens_per_step=4,
        )
        self.num_gathers = 0

        def reduce(table: Tensor, reduce_op: str) -> Tensor:
            assert reduce_op == "sum"
            assert not table[1].any()
            self.num_gathers += 1
            return torch.stack([table[0], other(table[0])])

        self.trainer: Any = SimpleNamespace(
            datamodule=Stream(),
            global_step=2,
            global_rank=0,
            world_size=2,
            strategy=SimpleNamespace(reduce=reduce, checkpoint_io=DurableCheckpointIO()),
        )

    def step(self, callback: Agreement) -> None:
        """End step 1, rows 8 to 15; the first rank has the first four in two micro-batches."""
        batch: Any = [SimpleNamespace(row_ids=torch.tensor(ids)) for ids in ([8, 9], [10, 11])]
        callback.on_train_batch_end(self.trainer, self.module, None, batch, 0)


def changed(**changes: int) -> Callable[[Tensor], Tensor]:
    """Return what the second rank gathers: as the first one, its own rows, and some changes."""

    def other(own: Tensor) -> Tensor:
        names = (*SHARED, *OWN)
        row = dict(zip(names, own.tolist(), strict=True))
        if row["rows"]:
            row["first row"] += row["rows"]
        for name, value in changes.items():
            row[name.replace("_", " ")] += value
        return torch.tensor([row[name] for name in names])

    return other


def test_two_healthy_ranks_go_on() -> None:
    ranks = Ranks(changed())
    callback = Agreement(every_n_steps=1)
    callback.on_train_start(ranks.trainer, ranks.module)
    ranks.step(callback)
    assert ranks.num_gathers == 2


@pytest.mark.parametrize("every_n_steps", [1, 2, 3, 4])
def test_ranks_are_compared_at_multiples_only(every_n_steps: int) -> None:
    ranks = Ranks(changed())
    ranks.step(Agreement(every_n_steps))
    assert ranks.num_gathers == (2 % every_n_steps == 0)


@pytest.mark.parametrize(
    "name",
    ["step", "position_in_the_data", "data_fingerprint", "checkpoint", "skipped_steps", "weights"],
)
def test_a_rank_that_differs_stops_the_run(name: str) -> None:
    ranks = Ranks(changed(**{name: 1}))
    message = f"come apart after step 2: {name.replace('_', ' ')}: rank 1"
    with pytest.raises(TrainingError, match=message):
        ranks.step(Agreement(every_n_steps=1))
    with pytest.raises(TrainingError, match=message):
        Agreement().on_train_start(ranks.trainer, ranks.module)


def test_rows_that_two_ranks_trained_on_stop_the_run() -> None:
    ranks = Ranks(changed(first_row=-4))
    with pytest.raises(TrainingError, match="rank 1 trained on 4 rows from 8 on"):
        ranks.step(Agreement(every_n_steps=1))


def test_the_module_decides_about_the_checksum() -> None:
    seen: list[list[int]] = []

    def listen(own: Tensor) -> Tensor:
        seen.append(own.tolist())
        return changed()(own)

    ranks = Ranks(listen)
    ranks.step(Agreement(every_n_steps=1))
    with torch.no_grad():
        ranks.module.model.backbone.norm_f.weight[0] += 1e-6
    ranks.step(Agreement(every_n_steps=1))
    ranks.module.seen.tokens += 1
    ranks.step(Agreement(every_n_steps=1))
    assert len({row[SHARED.index("weights")] for row in seen}) == 3


def test_the_bits_of_the_checkpoint_are_compared(tmp_path: Path) -> None:
    seen: list[int] = []

    def listen(own: Tensor) -> Tensor:
        seen.append(int(own[SHARED.index("checkpoint")]))
        return changed()(own)

    ranks = Ranks(listen)
    ranks.step(Agreement(every_n_steps=1))
    path = tmp_path / "step_0000001.ckpt"
    for moment in (0.0, 0.5):
        run = {"step": 1, "reason": "test", "settings": {}}
        io = ranks.trainer.strategy.checkpoint_io
        io.save_checkpoint({"exp_avg": torch.tensor(moment), "run": run}, path)
        io.load_checkpoint(path)
        ranks.step(Agreement(every_n_steps=1))
    assert seen[0] == 0
    assert len(set(seen)) == 3


def test_a_run_of_one_rank_has_nothing_to_compare() -> None:
    ranks = Ranks(changed())
    ranks.trainer.world_size = 1
    ranks.trainer.strategy.reduce = lambda table, reduce_op: table
    batch: Any = [SimpleNamespace(row_ids=torch.arange(8, 16))]
    Agreement(1).on_train_batch_end(ranks.trainer, ranks.module, None, batch, 0)


def test_never_is_refused() -> None:
    with pytest.raises(ValueError, match=r"every_n_steps must be .* at least 1, found 0"):
        Agreement(0)
