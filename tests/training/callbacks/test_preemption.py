"""Stopping in time: at one step boundary on all ranks, with a checkpoint, and never silently."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from torch.utils.data import DataLoader

from biomamba.runtime import signals, slurm
from biomamba.training.callbacks import preemption
from biomamba.training.callbacks.checkpoint import Checkpoints
from biomamba.training.callbacks.preemption import OwnSignals, Preemption

NUM_STEPS = 8


class Line(lightning.LightningModule):
    """One weight; `act(step, rank)` is called before each step."""

    def __init__(self, act: Callable[[int, int], None] = lambda step, rank: None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.act = act
        self.in_fit: list[Any] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.in_fit = [signal.getsignal(number) for number in signals.SIGNALS]
        self.act(batch_idx, self.trainer.global_rank)
        return ((self.weight - batch) ** 2).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(torch.ones(NUM_STEPS, 1), batch_size=None)  # type: ignore[arg-type]


class Saves(Checkpoints):
    """Notes what it was asked to save, by rank."""

    def save_now(self, trainer: lightning.Trainer, reason: str) -> Path:
        (self.folder / f"rank-{trainer.global_rank}-step-{trainer.global_step}").touch()
        return self.folder / f"{reason}.ckpt"

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Need no writer."""

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Save nothing by schedule."""

    on_train_end = on_exception = on_train_batch_end


@pytest.fixture(autouse=True)
def requeues(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Listen to signals, and count the requests to SLURM."""
    found: list[str] = []

    def requeue() -> str:
        found.append("asked")
        return "job 7 is in the queue again"

    monkeypatch.setattr(slurm, "requeue", requeue)
    monkeypatch.setattr(slurm, "end_time", lambda: None)
    signals.listen()
    yield found
    signals.restore()


def fit(
    folder: Path, module: Line, *, saves: bool = True, margin: float = 60.0, **options: Any
) -> lightning.Trainer:
    callbacks: list[Any] = [Preemption(margin)]
    if saves:
        callbacks.append(Saves(str(folder)))
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=saves,
        callbacks=callbacks,
        **({"devices": 1, "logger": False} | options),
    )
    trainer.fit(module)
    return trainer


def send_at(step: int, number: signal.Signals) -> Callable[[int, int], None]:
    def act(now: int, rank: int) -> None:
        if now == step:
            os.kill(os.getpid(), number)

    return act


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_ends_the_fit_behind_its_step_with_a_checkpoint(
    tmp_path: Path, requeues: list[str], number: signal.Signals
) -> None:
    with pytest.raises(signals.Interrupted) as stop:
        fit(tmp_path, Line(send_at(2, number)))
    assert [path.name for path in tmp_path.iterdir()] == ["rank-0-step-3"]
    is_by_hand = number in signals.BY_HAND  # then SLURM is not asked to start the job again
    answer = (
        "start the same command again to continue" if is_by_hand else "job 7 is in the queue again"
    )
    assert stop.value.reason == (
        f"{number.name}: saved step 3 in {tmp_path}/{number.name}.ckpt; {answer}"
    )
    assert stop.value.is_settled
    assert stop.value.number == number
    assert requeues == ([] if is_by_hand else ["asked"])


class Curve(Logger):
    """Keeps the points of one curve."""

    name, version = "curve", 0  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.points: list[float] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Keep none."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.points.append(metrics["index"])


class Draws(Line):
    """Logs the number of each batch."""

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.log("index", float(batch_idx))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2]), (2, [1])])
def test_the_curves_reach_the_step_that_is_saved(
    tmp_path: Path, every: int, expected: list[int]
) -> None:
    curve = Curve()
    with pytest.raises(signals.Interrupted):
        fit(
            tmp_path,
            Draws(send_at(2, signal.SIGTERM)),
            logger=curve,
            log_every_n_steps=every,
        )
    assert curve.points == expected


def test_without_a_request_the_fit_ends_by_itself(tmp_path: Path, requeues: list[str]) -> None:
    assert fit(tmp_path, Line()).global_step == NUM_STEPS
    assert not list(tmp_path.iterdir())
    assert not requeues


def test_the_handlers_of_the_program_stay_during_and_after_the_fit(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    module = Line()
    trainer = fit(tmp_path, module)
    assert module.in_fit == before
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before
    assert isinstance(trainer._signal_connector, OwnSignals)


def test_an_early_signal_stops_before_the_first_step_and_saves_nothing(
    tmp_path: Path, requeues: list[str]
) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(signals.Interrupted, match="SIGTERM before the first step"):
        fit(tmp_path, Line())
    assert not list(tmp_path.iterdir())
    assert requeues == ["asked"]


def test_the_end_of_the_job_leaves_room_for_the_longest_step_and_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requeues: list[str]
) -> None:
    # Steps of 10 s on a false clock; 65 s to go; 5 s of margin: after step 4 at 40 s there are
    # 25 s left, which are 2 x 10 + 5 (enough), after step 5 only 15.
    clock = [1_000.0]
    monkeypatch.setattr(preemption.time, "time", lambda: clock[0])
    monkeypatch.setattr(preemption.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(slurm, "end_time", lambda: 1_065.0)

    def act(step: int, rank: int) -> None:
        clock[0] += 10.0

    with pytest.raises(signals.Interrupted, match="time limit: saved step 5"):
        fit(tmp_path, Line(act), margin=5.0)
    assert requeues == ["asked"]


def test_a_job_too_short_for_a_step_is_not_requeued_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requeues: list[str]
) -> None:
    monkeypatch.setattr(slurm, "end_time", lambda: time.time() + 50.0)
    with pytest.raises(signals.Interrupted, match="raise --time") as stop:
        fit(tmp_path, Line(), margin=60.0)
    assert stop.value.is_settled
    assert not requeues


def test_without_checkpoints_nothing_is_requeued(tmp_path: Path, requeues: list[str]) -> None:
    with pytest.raises(signals.Interrupted, match="nothing saved"):
        fit(tmp_path, Line(send_at(2, signal.SIGTERM)), saves=False)
    assert not requeues


def test_all_ranks_stop_at_the_same_step_when_one_gets_the_signal(tmp_path: Path) -> None:
    def act(step: int, rank: int) -> None:
        signals.listen()  # the ranks of this test are forked
        time.sleep(0.05 * (1 - rank))  # rank 1 runs ahead as far as it can
        if rank == 1 and step == 3:
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(Exception, match="terminated with exit code 1"):
        fit(tmp_path, Line(act), devices=2, strategy="ddp_fork", use_distributed_sampler=False)
    assert {path.name for path in tmp_path.iterdir()} == {"rank-0-step-4", "rank-1-step-4"}


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(ValueError, match=r"margin_seconds must be .* at least 0, found -"):
        Preemption(-1)
