"""The stream of steps: one sequence for every way to deal it out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from biomamba.data.batches import Batch, PlannedSource, StepSampler, TrainingSteps, training_loader
from biomamba.data.mixture import MixedRows, Mixture, SourceSize, TokenBudget
from biomamba.data.packing import BestFit
from biomamba.data.store.reader import TokenSplit, open_stores
from biomamba.data.tokenizer import Tokenizer

BUDGET = TokenBudget(max_tokens=3_072, tokens_per_step=256, seq_len=32, micro_batch_size=2)
TEXTS = {
    "a": [f"document {i} " + "ab" * (i % 23) for i in range(40)],
    "b": [f"other {i} " + "xyz" * (i % 31) for i in range(30)],
}


@pytest.fixture
def make_steps(write_store: Callable[..., Path]) -> Callable[..., TrainingSteps]:
    """Return make(rank, world_size, micro_batch_size): steps over two sources, half and half."""
    sources = []
    for index, (name, texts) in enumerate(TEXTS.items()):
        split = TokenSplit.open(open_stores([str(write_store(name, texts))]), "train")
        plan = BestFit().plan(split.lengths, BUDGET.seq_len)
        sources.append(PlannedSource(index, split, plan))
    sizes = {
        name: SourceSize(source.plan.num_rows, int(source.split.lengths.sum()), len(source.split))
        for name, source in zip(TEXTS, sources, strict=True)
    }
    mixture = Mixture({"a": 0.5, "b": 0.5}, unit="sequences", block_size=10)
    rows = MixedRows(mixture, sizes, seed=3)

    def _make(rank: int = 0, world_size: int = 1, micro_batch_size: int = 2) -> TrainingSteps:
        budget = replace(BUDGET, micro_batch_size=micro_batch_size)
        return TrainingSteps(sources, rows, budget, rank=rank, world_size=world_size)

    return _make


def joined(batches: list[Batch]) -> dict[str, torch.Tensor]:
    """Return the rows of micro-batches as one batch."""
    names = ("input_ids", "targets", "seq_idx", "source", "num_bytes", "row_ids")
    return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    left, right = joined(first), joined(second)
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def test_the_number_of_items_is_the_number_of_steps(
    make_steps: Callable[..., TrainingSteps],
) -> None:
    assert len(make_steps()) == 12


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_the_rows_of_a_step_do_not_depend_on_ranks_or_micro_batches(
    world_size: int, micro_batch_size: int, make_steps: Callable[..., TrainingSteps]
) -> None:
    whole = make_steps(micro_batch_size=8)
    ranks = [make_steps(rank, world_size, micro_batch_size) for rank in range(world_size)]
    for step in range(len(whole)):
        parts = [batch for steps in ranks for batch in steps[step]]
        assert {len(batch.input_ids) for batch in parts} == {micro_batch_size}
        assert_equal(parts, whole[step])


def test_row_ids_count_through_the_run(make_steps: Callable[..., TrainingSteps]) -> None:
    steps = make_steps(micro_batch_size=4)
    ids = [int(i) for step in range(12) for batch in steps[step] for i in batch.row_ids]
    assert ids == list(range(12 * 8))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start_step", [0, 5, 12])
def test_a_loader_gives_the_tail_from_any_step(
    num_workers: int, start_step: int, make_steps: Callable[..., TrainingSteps]
) -> None:
    steps = make_steps()
    loader = training_loader(steps, start_step, num_workers)
    before = torch.get_rng_state()
    items = list(loader)
    assert torch.equal(torch.get_rng_state(), before)  # it belongs to the training
    assert len(loader) == 12
    assert len(items) == 12 - start_step
    for step, item in enumerate(items, start=start_step):
        assert_equal(item, steps[step])


def test_an_epoch_of_a_source_holds_every_token_of_its_documents_once(
    make_steps: Callable[..., TrainingSteps], byte_tokenizer: Tokenizer
) -> None:
    steps = make_steps(micro_batch_size=1)
    rows_left = steps._sources[0].plan.num_rows
    pieces: list[tuple[int, ...]] = []
    for step in range(len(steps)):
        for batch in steps[step]:
            if batch.source.item() == 0 and rows_left:
                rows_left -= 1
                pieces += cut(batch)
    assert rows_left == 0
    whole = [byte_tokenizer.encode(text) for text in TEXTS["a"]]
    expected = [
        tuple([*ids, 0][start : start + 32])
        for ids in whole
        for start in range(0, len(ids) + 1, 32)
    ]
    assert sorted(pieces) == sorted(expected)


def cut(batch: Batch) -> list[tuple[int, ...]]:
    """Return the targets of each piece of a single row."""
    scored = batch.targets[0] >= 0
    numbers, targets = batch.seq_idx[0][scored], batch.targets[0][scored]
    return [tuple(targets[numbers == piece].tolist()) for piece in numbers.unique()]


def test_the_sampler_has_the_length_of_the_run_wherever_it_starts() -> None:
    sampler = StepSampler(start=4, num_steps=6)
    assert (len(sampler), list(sampler)) == (6, [4, 5])
