"""Worker processes of a loader that stop answering: named, killed, and a signal is obeyed."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import active_children
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from biomamba.data import loader
from biomamba.data.loader import WorkerLoader
from biomamba.runtime import signals
from biomamba.runtime.errors import ConfigError, DataError


class Numbers(Dataset[Any]):
    """Ten numbers; the second of two workers stops itself before it gives number 3."""

    def __init__(self, silent: int = 3, *, is_slow: bool = False) -> None:
        self.silent, self.is_slow = silent, is_slow

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        if index == self.silent:
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.is_slow:
            time.sleep(0.2)
        return index


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_POLL_SECONDS", 0.1)
    monkeypatch.setattr(loader, "_PATIENCE_SECONDS", 0.5)


@pytest.fixture
def _listening() -> Iterator[None]:
    signals.listen()
    yield
    signals.restore()


class Tensors(Numbers):
    """Tensors, whose memory the main process asks the worker for."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((3,), super().__getitem__(index))


def assert_none_left() -> None:
    end = time.monotonic() + 10
    while active_children():  # they are killed, not waited for
        assert time.monotonic() < end
        time.sleep(0.02)


def load(dataset: Dataset[Any], **options: Any) -> list[int]:
    return [int(item) for item in WorkerLoader(dataset, num_workers=2, **options)]


def test_a_stopped_worker_is_named_and_no_worker_is_left() -> None:
    with pytest.raises(DataError, match=r"data worker 1 of 2 \(process \d+, stopped\) .*for 1 s"):
        load(Numbers(), timeout_seconds=1.0)
    assert_none_left()


def test_a_worker_that_stops_between_an_item_and_its_memory_is_named() -> None:
    items = iter(WorkerLoader(Tensors(silent=-1), num_workers=1, timeout_seconds=1.0))
    assert int(next(items)[0]) == 0
    time.sleep(0.5)  # the next two items are in the queue
    for child in active_children():
        os.kill(child.pid or 0, signal.SIGSTOP)
    with pytest.raises(DataError, match=r"data worker 0 of 1 \(process \d+, stopped\)"):
        list(items)
    assert_none_left()


def test_a_worker_that_is_slower_than_a_poll_is_waited_for() -> None:
    assert load(Numbers(silent=-1, is_slow=True), timeout_seconds=5.0) == list(range(10))
    assert load(Numbers(silent=-1), timeout_seconds=None) == list(range(10))


@pytest.mark.usefixtures("_listening")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_is_obeyed_while_a_stopped_worker_is_waited_for(
    number: signal.Signals,
) -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    with pytest.raises(
        signals.Interrupted, match=f"{number.name} while data worker 1 of 2"
    ) as stop:
        load(Numbers(), timeout_seconds=None)
    assert stop.value.number == number
    assert not stop.value.is_settled
    assert_none_left()


@pytest.mark.usefixtures("_listening")
def test_a_request_to_stop_takes_no_item_from_workers_that_answer() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert load(Numbers(silent=-1, is_slow=True)) == list(range(10))


def test_an_iterator_that_is_given_up_leaves_no_stopped_worker() -> None:
    items = iter(WorkerLoader(Numbers(), num_workers=2))
    assert next(items) == 0
    del items
    assert_none_left()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    words = r"data\.worker_timeout_seconds must be a finite number above 0, or null, found "
    with pytest.raises(ConfigError, match=words):
        WorkerLoader(Numbers(), num_workers=0, timeout_seconds=seconds)
