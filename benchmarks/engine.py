"""The run that is measured: three sources in token stores, mixed by tokens, best-fit packed."""

from collections.abc import Iterator
from pathlib import Path

from biomamba.data.batches import Batch, TrainingSteps
from biomamba.data.datamodule import PretrainDataModule
from biomamba.data.mixture import Mixture, TokenBudget
from biomamba.data.packing import BestFit

WEIGHTS = {"pubmed": 0.8, "web": 0.1, "wikipedia": 0.1}
SEQ_LEN = 1_024
ROWS_PER_STEP = 256
MICRO_BATCH_SIZE = 8
NUM_STEPS = 60_000  # 15 M samples, so that sample 10 M is within the run


def _datamodule(root: Path, num_workers: int = 0) -> PretrainDataModule:
    """Return the data of a long run over the stores in a folder."""
    tokens_per_step = ROWS_PER_STEP * SEQ_LEN
    return PretrainDataModule(
        sources={name: [str(root / name)] for name in WEIGHTS},
        mixture=Mixture(WEIGHTS),
        packing=BestFit(),
        budget=TokenBudget(
            max_tokens=NUM_STEPS * tokens_per_step,
            tokens_per_step=tokens_per_step,
            seq_len=SEQ_LEN,
            micro_batch_size=MICRO_BATCH_SIZE,
        ),
        seed=0,
        num_workers=num_workers,
        verify="size",
    )


def million_tokens(items: Iterator[list[Batch]], num_steps: int) -> float:
    """Take steps and count their tokens without padding."""
    total = 0
    for _ in range(num_steps):
        total += sum(int(batch.pieces["tokens"].sum()) for batch in next(items))
    return total / 1e6


def open_run(root: Path, num_workers: int = 0) -> PretrainDataModule:
    """Open the stores and plan the rows."""
    module = _datamodule(root, num_workers)
    module.prepare_data()
    module.setup()
    return module


def steps_of(root: Path) -> TrainingSteps:
    """Return the steps of a single process."""
    return open_run(root).steps(rank=0, world_size=1)
