"""Faults from outside that end a run or come between two starts: named, and nothing is lost."""

import functools
import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biomamba import prepare, train
from biomamba.config.cli import USER_ERROR_CODE, run_cli
from biomamba.config.compose import compose_config
from biomamba.data import loader
from biomamba.data.ledger import Ledger
from biomamba.runtime import signals

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
]

NUM_STEPS = 10
SETTINGS = (
    "run_id=x",
    f"max_tokens={NUM_STEPS * 256}",
    "tokens_per_step=256",
    "data.budget.seq_len=32",
    "data.budget.micro_batch_size=8",
    "data.max_val_documents=2",
    "data.verify=size",
    "trainer.val_check_interval=4",
    "trainer.log_every_n_steps=1",
    "callbacks.progress=null",
    "callbacks.checkpoint.every_n_steps=3",
    "callbacks.checkpoint.keep_last=100",
    "model.config.d_model=16",
    "model.config.n_layer=2",
)

Act = Callable[[], None]
Start = Callable[..., Any]


class At(lightning.Callback):
    """Does something at the beginning of a step."""

    def __init__(self, step: int, act: Act) -> None:
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.act()


def program(arguments: tuple[str, ...], step: int, act: Act, first: Act) -> None:
    build_callbacks = train.build_callbacks
    train.build_callbacks = lambda nodes, run: [*build_callbacks(nodes, run), At(step, act)]
    sys.argv = ["train", *arguments]
    first()
    signals.listen()
    run_cli("train", train.main)


def nothing() -> None:
    """What most starts do."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, fork_ranks: Any) -> Start:
    """Return start(run_dir, *arguments, step, act, first): how the program ended."""
    data = tmp_path_factory.mktemp("data")
    prepare.main(compose_config("prepare", [f"paths.data_dir={data}", "run_id=x"]))

    def _start(
        run_dir: Path, *arguments: str, step: int = -1, act: Act = nothing, first: Act = nothing
    ) -> Any:
        given = (*SETTINGS, f"paths.data_dir={data}", f"paths.run_dir={run_dir}", *arguments)
        (end,) = fork_ranks(functools.partial(program, given, step, act, first))
        return end

    return _start


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Path:
    """A run that nothing happened to."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    end = start(run_dir)
    assert end.code == 0, end.errors
    return run_dir


def points(run_dir: Path, name: str) -> list[tuple[int, float]]:
    curves = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    return [(point.step, point.value) for point in curves.Scalars(name)]


def assert_same_run(found: Path, whole: Path) -> None:
    mine, its = (load_file(run_dir / "model" / "model.safetensors") for run_dir in (found, whole))
    for name, value in its.items():
        assert torch.equal(mine[name], value), name
    for name in ("train/loss", "val/loss"):
        assert points(found, name) == points(whole, name), name
    ledgers = [Ledger(run_dir / "ledger") for run_dir in (found, whole)]
    assert all((ledger.gaps, ledger.num_unfinished_steps) == ([], 0) for ledger in ledgers)
    assert np.array_equal(*(np.concatenate(list(ledger.chunks())) for ledger in ledgers))
    records = [json.loads((run_dir / "run.json").read_text()) for run_dir in (found, whole)]
    assert all(records[0][key] == records[1][key] for key in ("before", "after", "realised"))


def kill_the_workers() -> None:
    for child in multiprocessing.active_children():
        child.kill()
    time.sleep(1)  # the signal of their death comes earlier


def test_a_data_worker_that_dies_ends_the_run_with_its_cause(
    start: Start, whole: Path, tmp_path: Path
) -> None:
    # Two workers load at most six of the ten steps ahead of the fourth: the last is still missing.
    end = start(tmp_path / "run", "data.num_workers=2", step=3, act=kill_the_workers)
    assert end.code == USER_ERROR_CODE, end.errors
    for part in ("error: a process that loads data died", "the same command continues"):
        assert part in end.errors
    assert "Traceback" not in end.errors
    end = start(tmp_path / "run", "data.num_workers=2")
    assert end.code == 0, end.errors
    assert_same_run(tmp_path / "run", whole)


def stop_the_workers() -> None:
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGSTOP)


def stop_the_workers_then_ask_for_an_end(number: signal.Signals) -> None:
    stop_the_workers()
    threading.Timer(6, os.kill, (os.getpid(), number)).start()


def be_impatient() -> None:
    loader._PATIENCE_SECONDS = 2.0


def test_a_data_worker_that_stops_answering_is_named_in_bounded_time(
    start: Start, whole: Path, tmp_path: Path
) -> None:
    options = ("data.num_workers=1", "data.worker_timeout_seconds=5")
    end = start(tmp_path / "run", *options, step=3, act=stop_the_workers)
    assert end.code == USER_ERROR_CODE, end.errors
    for part in ("data worker 0 of 1 (process ", "stopped", "data.worker_timeout_seconds"):
        assert part in end.errors
    assert "Traceback" not in end.errors
    end = start(tmp_path / "run", *options)
    assert end.code == 0, end.errors
    assert_same_run(tmp_path / "run", whole)


# It waits after step 4, which is validated, or after step 5.
@pytest.mark.parametrize(("step", "number"), [(3, signal.SIGINT), (4, signal.SIGTERM)])
def test_a_run_that_waits_for_a_stopped_worker_saves_at_a_signal(
    start: Start, whole: Path, tmp_path: Path, step: int, number: signal.Signals
) -> None:
    act = functools.partial(stop_the_workers_then_ask_for_an_end, number)
    run_dir = tmp_path / "run"
    end = start(run_dir, "data.num_workers=1", step=step, act=act, first=be_impatient)
    assert end.code == (130 if number == signal.SIGINT else 75), end.errors
    assert "while data worker 0 of 1 (process " in end.errors
    assert f"saved step {step + 1} in " in end.errors
    end = start(run_dir)
    assert end.code == 0, end.errors
    assert_same_run(run_dir, whole)


def clock(offset_seconds: float) -> Act:
    """Return what sets the clock of a process; it jumps back and forth by minutes, too."""
    jumps, real = itertools.cycle([0.0, -600.0, 300.0]), time.time

    def set_clock() -> None:
        time.time = lambda: real() + offset_seconds + next(jumps)

    return set_clock


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_clock_that_goes_back_changes_nothing(start: Start, whole: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    rng = random.Random(0)
    for step, days in ((5, 0), (8, -2), (-1, -1)):
        end = start(run_dir, step=step, act=kill_myself, first=clock(days * 86_400.0))
        assert end.code == (-signal.SIGKILL if step > 0 else 0), end.errors
        for path in run_dir.rglob("*"):
            os.utime(path, (0, rng.randrange(10**9)))
    assert_same_run(run_dir, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of a few MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no room."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (65_536, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue


@pytest.mark.parametrize("options", [(), ("callbacks.checkpoint.in_background=true",)])
def test_a_disk_that_is_full_costs_the_steps_behind_the_last_checkpoint(
    start: Start, whole: Path, small_disk: Path, options: tuple[str, ...]
) -> None:
    run_dir = small_disk / "run"
    end = start(run_dir, *options, step=4, act=functools.partial(fill, small_disk))
    assert end.code == USER_ERROR_CODE, end.errors
    assert "No space left on device" in end.errors
    assert "make room" in end.errors
    checkpoints = run_dir / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {
        "step_0000003.ckpt",
        "step_0000003.ckpt.json",
    }
    (small_disk / "filler").unlink()
    end = start(run_dir, *options)
    assert end.code == 0, end.errors
    assert_same_run(run_dir, whole)
