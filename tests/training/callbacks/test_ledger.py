"""The ledger that a run writes: whole after kills and resumes, on any number of ranks."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from biomamba.data.batches import PIECE_DTYPE, Batch, StepLoader, StepSampler
from biomamba.data.datamodule import Exposure, TrainingData
from biomamba.data.ledger import ENTRY_DTYPE, Ledger
from biomamba.data.mixture import Mixture, TokenBudget
from biomamba.training.callbacks.ledger import LedgerWriter

NUM_STEPS, ROWS_PER_STEP, MICRO_BATCH = 24, 8, 2
BUDGET = TokenBudget(NUM_STEPS * ROWS_PER_STEP * 4, ROWS_PER_STEP * 4, 4, MICRO_BATCH)
EVERY, CHECKPOINTS = 3, (4, 8, 12, 16, 20, 24)


def row_pieces(step: int, row: int) -> list[tuple[int, int, int, int]]:
    """Return (source, key, start, tokens) of the 0 to 2 pieces of a row: the oracle."""
    generator = np.random.default_rng([step, row])
    return [
        (int(generator.integers(2)), *generator.integers(0, 1_000, size=3).tolist())
        for _ in range(generator.integers(0, 3))
    ]


def expected(first: int = 0, end: int = NUM_STEPS) -> NDArray[Any]:
    rows = [
        (step, *piece)
        for step in range(first, end)
        for row in range(ROWS_PER_STEP)
        for piece in row_pieces(step, row)
    ]
    return np.array(rows, dtype=ENTRY_DTYPE)


class Steps(torch.utils.data.Dataset[list[Batch]]):
    """The steps of one rank."""

    def __init__(self, rank: int, world_size: int) -> None:
        size = ROWS_PER_STEP // world_size
        self.rows = range(rank * size, (rank + 1) * size)

    def __len__(self) -> int:
        return NUM_STEPS

    def __getitem__(self, step: int) -> list[Batch]:
        starts = range(self.rows.start, self.rows.stop, MICRO_BATCH)
        size = min(MICRO_BATCH, len(self.rows))
        return [self._batch(step, range(start, start + size)) for start in starts]

    def _batch(self, step: int, rows: range) -> Batch:
        records = [
            (number, *piece) for number, row in enumerate(rows) for piece in row_pieces(step, row)
        ]
        zeros = torch.zeros(len(rows), 4, dtype=torch.int64)
        return Batch(
            input_ids=zeros,
            targets=zeros,
            seq_idx=zeros.int(),
            source=zeros[:, 0],
            num_bytes=zeros[:, 0],
            row_ids=zeros[:, 0],
            pieces=np.array(records, dtype=PIECE_DTYPE),
        )


class Stream(TrainingData):
    """A stream whose pieces are known."""

    tokenizer_fingerprint, vocab_size = "tokens", 257

    def __init__(self, name: str = "stream") -> None:
        super().__init__(BUDGET, ["pubmed", "web"], Mixture({"pubmed": 0.5, "web": 0.5}))
        self.name = name

    @property
    def fingerprint(self) -> str:
        return self.name

    @property
    def store_folders(self) -> dict[str, list[str]]:
        return {"pubmed": ["data/pubmed"]}

    @property
    def exposures(self) -> Mapping[str, Exposure]:
        return {}

    def save_tokenizer(self, path: Path) -> None:
        path.write_text("{}")

    def train_dataloader(self) -> DataLoader[list[Batch]]:
        sampler = StepSampler(self._start_step, NUM_STEPS)
        return StepLoader(Steps(*self._place()), num_workers=0, sampler=sampler)


class Ranks:
    """The ranks of one start of a run, driven in one process as Lightning would.

    Args:
        folder: The ledger.
        world_size: Number of ranks.
        start: Step of the checkpoint that the run is resumed from.
        earlier: What the checkpoint says of its ledger.
        stream: Fingerprint of the stream.
    """

    def __init__(
        self,
        folder: Path,
        world_size: int,
        start: int = 0,
        earlier: dict[str, Any] | None = None,
        stream: str = "stream",
    ) -> None:
        self.events: list[str] = []
        self.step = start
        self.steps = [Steps(rank, world_size) for rank in range(world_size)]
        self.trainers: list[Any] = []
        self.writers = [LedgerWriter(str(folder), EVERY) for _ in range(world_size)]
        for rank, writer in enumerate(self.writers):
            data: Any = Stream(stream)
            data.load_state_dict({"consumed_steps": start, "fingerprint": stream})
            self.trainers.append(self._trainer(data, rank, world_size))
            if earlier is not None:
                writer.load_state_dict(earlier)
            self._call("on_train_start", rank)

    def train_to(self, end: int) -> "Ranks":
        """Take the steps before `end`, with a checkpoint after some of them."""
        while self.step < end:
            for rank, steps in enumerate(self.steps):
                self._processed(rank).processed = self.step + 1
                self._call("on_train_batch_end", rank, None, steps[self.step], self.step)
            self.step += 1
            if self.step in CHECKPOINTS:
                self.save()
        return self

    def save(self) -> None:
        for rank in range(len(self.steps)):
            self._call("on_save_checkpoint", rank, {})

    def end(self) -> None:
        for rank in range(len(self.steps)):
            self._call("on_train_end", rank)

    def _trainer(self, data: Any, rank: int, world_size: int) -> Any:
        progress = SimpleNamespace(total=SimpleNamespace(processed=0))
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
        trainer = SimpleNamespace(
            datamodule=data,
            global_rank=rank,
            world_size=world_size,
            is_global_zero=rank == 0,
            fit_loop=loop,
            strategy=SimpleNamespace(barrier=lambda name: self.events.append("barrier")),
        )
        data.trainer = trainer
        return trainer

    def _processed(self, rank: int) -> Any:
        return self.trainers[rank].fit_loop.epoch_loop.batch_progress.total

    def _call(self, hook: str, rank: int, *arguments: Any) -> None:
        getattr(self.writers[rank], hook)(self.trainers[rank], None, *arguments)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def recorded(folder: Path) -> NDArray[Any]:
    ledger = Ledger(folder)
    assert (ledger.gaps, ledger.num_unfinished_steps) == ([], 0)
    return np.concatenate(list(ledger.chunks()))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_together_write_the_global_steps(world_size: int, tmp_path: Path) -> None:
    Ranks(tmp_path, world_size).train_to(NUM_STEPS).end()
    assert np.array_equal(recorded(tmp_path), expected())


@pytest.mark.parametrize("world_sizes", [(1, 1), (2, 2), (2, 1), (1, 2), (4, 2), (2, 4)])
@pytest.mark.parametrize("kill_step", [4, 5, 6, 9, 13, 23])
def test_a_killed_and_resumed_run_leaves_the_ledger_of_an_uninterrupted_one(
    world_sizes: tuple[int, int], kill_step: int, tmp_path: Path
) -> None:
    Ranks(tmp_path / "whole", world_sizes[0]).train_to(NUM_STEPS).end()
    # A kill: what the callbacks hold is lost, and rank zero got further than the others.
    killed = Ranks(tmp_path / "killed", world_sizes[0]).train_to(kill_step)
    killed.writers[0]._write()
    checkpoint = max(step for step in CHECKPOINTS if step <= kill_step)
    Ranks(tmp_path / "killed", world_sizes[1], checkpoint).train_to(NUM_STEPS).end()
    assert np.array_equal(recorded(tmp_path / "killed"), expected())
    if world_sizes[0] == world_sizes[1]:
        assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_a_run_killed_and_resumed_over_and_over_loses_and_repeats_nothing(tmp_path: Path) -> None:
    start = 0
    for kill_step, world_size in [(5, 2), (7, 1), (13, 4), (14, 2), (22, 1), (24, 2)]:
        Ranks(tmp_path, world_size, start).train_to(kill_step)
        start = max(step for step in (0, *CHECKPOINTS) if step <= kill_step)
    assert np.array_equal(recorded(tmp_path), expected())


def test_everything_before_a_checkpoint_is_written_before_any_rank_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(tmp_path, 2).train_to(3)
    ranks.train_to(4)
    assert Ledger(tmp_path).end_step == 4
    ranks = Ranks(tmp_path, 1, start=4)
    write = LedgerWriter._write

    def noted(writer: LedgerWriter) -> None:
        ranks.events.append("write")
        write(writer)

    monkeypatch.setattr(LedgerWriter, "_write", noted)
    ranks.events.clear()
    ranks.save()
    assert ranks.events == ["write", "barrier"]


def test_a_new_run_in_a_used_folder_begins_an_empty_ledger(tmp_path: Path) -> None:
    Ranks(tmp_path, 2).train_to(NUM_STEPS).end()
    Ranks(tmp_path, 1).train_to(2).end()
    assert np.array_equal(recorded(tmp_path), expected(0, 2))


def test_what_another_stream_left_in_the_folder_is_not_taken_for_its_own(tmp_path: Path) -> None:
    Ranks(tmp_path / "mine", 1).train_to(8)
    Ranks(tmp_path / "used", 2, stream="other").train_to(12)
    state = LedgerWriter(str(tmp_path / "mine")).state_dict()
    Ranks(tmp_path / "used", 1, 8, state).train_to(10).end()
    assert np.array_equal(recorded(tmp_path / "used"), expected(0, 10))


def test_a_shorter_ledger_of_the_same_stream_gives_way_to_the_one_resumed(tmp_path: Path) -> None:
    first = Ranks(tmp_path / "first", 2).train_to(9)
    Ranks(tmp_path / "used", 4).train_to(5)
    Ranks(tmp_path / "used", 1, 8, first.writers[0].state_dict()).train_to(NUM_STEPS).end()
    assert np.array_equal(recorded(tmp_path / "used"), expected())


@pytest.mark.parametrize("world_sizes", [(1, 1), (2, 1), (1, 2)])
def test_a_run_resumed_in_another_folder_takes_the_earlier_part_over(
    world_sizes: tuple[int, int], tmp_path: Path
) -> None:
    first = Ranks(tmp_path / "first", world_sizes[0]).train_to(11)
    before = content(tmp_path / "first")
    state = first.writers[0].state_dict()
    Ranks(tmp_path / "second", world_sizes[1], 8, state).train_to(NUM_STEPS).end()
    assert np.array_equal(recorded(tmp_path / "second"), expected())
    assert content(tmp_path / "first") == before


def test_a_missing_earlier_part_is_told_and_left_as_a_gap(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="new records 0 of the 8 steps before the checkpoint"):
        ranks = Ranks(tmp_path / "new", 1, 8, {"folder": str(tmp_path / "gone")})
    ranks.train_to(10).end()
    ledger = Ledger(tmp_path / "new")
    assert ledger.gaps == [(0, 8)]
    assert np.array_equal(np.concatenate(list(ledger.chunks())), expected(8, 10))


def test_a_run_resumed_twice_without_its_beginning_keeps_the_rest(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="records 0 of the 8 steps"):
        first = Ranks(tmp_path / "first", 2, 8).train_to(17)
    state = first.writers[0].state_dict()
    with pytest.warns(UserWarning, match="records 8 of the 16 steps"):
        Ranks(tmp_path / "second", 1, 16, state).train_to(NUM_STEPS).end()
    ledger = Ledger(tmp_path / "second")
    assert ledger.gaps == [(0, 8)]
    assert np.array_equal(np.concatenate(list(ledger.chunks())), expected(8))


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Return kill_after(n): the n-th change of a file from now on does not happen; None: all do."""
    left: list[int | None] = [None]

    def guarded(change: Callable[..., Any]) -> Callable[..., Any]:
        def _change(*arguments: Any, **options: Any) -> Any:
            if left[0] is not None:
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
            return change(*arguments, **options)

        return _change

    monkeypatch.setattr(Path, "unlink", guarded(Path.unlink))
    monkeypatch.setattr(Path, "replace", guarded(Path.replace))

    def _kill_after(number: int | None) -> None:
        left[0] = number

    return _kill_after


@pytest.mark.parametrize("target", ["run", "elsewhere"])
@pytest.mark.parametrize("number", range(12))
def test_a_run_killed_while_it_resumes_can_be_resumed(
    number: int, target: str, kill_after: Callable[[int | None], None], tmp_path: Path
) -> None:
    first = Ranks(tmp_path / "run", 2).train_to(11)
    first.writers[0]._write()
    state = first.writers[0].state_dict()
    kill_after(number)
    with contextlib.suppress(Killed):
        Ranks(tmp_path / target, 4, 8, state)
    kill_after(None)
    Ranks(tmp_path / target, 1, 8, state).train_to(NUM_STEPS).end()
    assert np.array_equal(recorded(tmp_path / target), expected())
    assert not list((tmp_path / target).glob(".*"))


def test_a_run_that_fails_keeps_what_it_did(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 2).train_to(5)
    for writer, trainer in zip(ranks.writers, ranks.trainers, strict=True):
        writer.on_exception(trainer, trainer, KeyboardInterrupt())
    assert np.array_equal(recorded(tmp_path), expected(0, 5))


def test_a_step_that_is_not_the_next_is_a_defect(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 1).train_to(5)
    ranks.step = 6
    with pytest.raises(AssertionError, match="the ledger is at step 6, the data at 7"):
        ranks.train_to(7)


def test_chunks_of_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"every_n_steps must be .* at least 1, found 0"):
        LedgerWriter("ledger", 0)


class Weight(lightning.LightningModule):
    """A module of one weight."""

    def __init__(self, on_step: Callable[[int], None]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.automatic_optimization = False
        self.on_step = on_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: list[Batch], batch_idx: int) -> None:
        self.on_step(self.global_step)
        self.manual_backward(self.weight * 1.0)
        optimizer: Any = self.optimizers()
        optimizer.step()


def fail_at(step: int) -> Callable[[int], None]:
    def on_step(current: int) -> None:
        if current == step:
            raise RuntimeError("the run is killed")

    return on_step


def fit(folder: Path, on_step: Callable[[int], None], resume: Path | None = None) -> None:
    """Train with Lightning and its own checkpoints, one every four steps."""
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(
        folder / "checkpoints", "{step}", every_n_train_steps=4, save_top_k=-1
    )
    trainer = lightning.Trainer(
        max_epochs=1,
        max_steps=NUM_STEPS,
        accelerator="cpu",
        logger=False,
        callbacks=[LedgerWriter(str(folder / "ledger"), EVERY), checkpoint],
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    trainer.fit(Weight(on_step), Stream(), ckpt_path=resume, weights_only=True)


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
@pytest.mark.filterwarnings("ignore:The dirpath has changed from")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("target", ["run", "elsewhere"])
def test_lightning_writes_resumes_and_ends_the_ledger(target: str, tmp_path: Path) -> None:
    fit(tmp_path / "whole", fail_at(-1))
    assert np.array_equal(recorded(tmp_path / "whole" / "ledger"), expected())
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "run", fail_at(14))
    assert np.array_equal(recorded(tmp_path / "run" / "ledger"), expected(0, 14))
    (half,) = (tmp_path / "run" / "checkpoints").glob("step=12*.ckpt")
    fit(tmp_path / target, fail_at(-1), half)
    assert content(tmp_path / target / "ledger").keys() >= {"00000021-00000024.rank-0-of-1.ledger"}
    assert np.array_equal(recorded(tmp_path / target / "ledger"), expected())
