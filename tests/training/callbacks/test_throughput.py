"""Throughput over windows, with a clock that the test turns."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from biomamba.training.callbacks import tensorboard as throughput
from biomamba.training.callbacks.tensorboard import Throughput


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def perf_counter(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


def _log(logged: list[dict[str, float]], name: str, value: float, *, prog_bar: bool) -> None:
    logged.append({name: value})


def _log_dict(logged: list[dict[str, float]], values: dict[str, float]) -> None:
    logged[-1].update(values)


def _run(callback: Throughput, clock: Clock, steps: list[tuple[float, float, int]]) -> list[Any]:
    """Take steps of (wait seconds, step seconds, tokens of this rank); return what was logged."""
    logged: list[dict[str, float]] = []
    trainer: Any = SimpleNamespace(world_size=2)
    module: Any = SimpleNamespace(log=partial(_log, logged), log_dict=partial(_log_dict, logged))
    callback.on_train_start(trainer, module)
    for index, (wait, work, tokens) in enumerate(steps):
        batch: Any = [SimpleNamespace(pieces={"tokens": np.array([tokens - 4, 4])})]
        clock.seconds += wait
        callback.on_train_batch_start(trainer, module, batch, index)
        clock.seconds += work
        callback.on_train_batch_end(trainer, module, None, batch, index)
        clock.seconds += 50.0  # a validation, which must not count
        callback.on_validation_end(trainer, module)
    return logged


def test_rates_of_a_window(clock: Clock) -> None:
    logged = _run(Throughput(every_n_steps=2), clock, [(1.0, 3.0, 100), (0.0, 4.0, 60)])
    # 160 tokens on each of 2 ranks in 8 seconds, 1 of them waiting.
    assert [values["throughput/tokens_per_second"] for values in logged] == [40.0]
    assert logged[0]["throughput/data_wait_ratio"] == 1 / 8
    assert logged[0]["system/peak_memory_gib"] > 0


def test_windows_are_separate(clock: Clock) -> None:
    logged = _run(Throughput(every_n_steps=1), clock, [(0.0, 1.0, 10), (0.0, 2.0, 10)])
    assert [values["throughput/tokens_per_second"] for values in logged] == [20.0, 10.0]
    # 40 tokens of 2 ranks in 3 seconds: not the mean of the rates.
    means = [values["throughput/mean_tokens_per_second"] for values in logged]
    assert means == [20.0, pytest.approx(40 / 3)]


def test_a_window_of_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"every_n_steps must be .* at least 1, found 0"):
        Throughput(every_n_steps=0)
