"""Work in several processes: order of results, errors, deaths."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.prepare import workers as worker_pool
from biomamba.data.prepare.workers import map_on, work_on
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import DataError

# The works are functions of the library: a worker process imports them by name.
BATCHES = [(1, 2), (30,), (), (400, 500, 600)]

_PARENT = """
import time
from multiprocessing import active_children
from threading import Thread
from biomamba.data.prepare.workers import work_on

if __name__ == "__main__":
    Thread(target=lambda: list(work_on(time.sleep, [600, 601], 2)), daemon=True).start()
    while len(active_children()) < 2:
        time.sleep(0.01)
    print(*(child.pid for child in active_children()), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("num_workers", [1, 2, 9])
def test_every_task_is_done_once_and_its_work_is_counted(num_workers: int) -> None:
    done: dict[Any, list[int]] = {task: [] for task in BATCHES}
    finished = []
    for event in work_on(iter, BATCHES, num_workers):
        assert event.task not in finished
        if event.is_finished:
            finished.append(event.task)
        else:
            done[event.task].append(event.amount)
    assert sorted(finished) == sorted(BATCHES)
    assert done == {task: list(task) for task in BATCHES}
    assert not active_children()


def test_nothing_to_do_starts_nothing() -> None:
    assert list(work_on(iter, [], 4)) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_users_mistake_comes_out_as_it_was_raised(num_workers: int) -> None:
    with pytest.raises(DataError, match=r"tokenizer file gone-\d.json does not exist"):
        list(work_on(Tokenizer.load, ["gone-1.json", "gone-2.json"], num_workers))
    assert not active_children()


def test_a_defect_comes_out_with_its_task_and_place() -> None:
    with pytest.raises(RuntimeError, match=r"in the worker for no-number:\n(.|\n)*TypeError"):
        list(work_on(range, [1, "no-number"], 2))


def test_an_error_ends_workers_that_are_busy() -> None:
    with pytest.raises(RuntimeError, match="in the worker for x"):
        list(work_on(time.sleep, [600, "x"], 2))
    assert not active_children()


def test_a_worker_that_dies_is_reported_with_its_task() -> None:
    with pytest.raises(DataError, match=r"the worker process for 9 died \(exit code -9\)"):
        list(work_on(signal.raise_signal, [9, 9], 2))


def test_giving_up_ends_the_workers() -> None:
    events = work_on(iter, [(1,), (2,), (3,)], 2)
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert not active_children()


def test_what_cannot_be_sent_is_told(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(DataError, match="num_workers=1"):
        list(work_on(partial(print, file=file), ["a", "b"], 2))
    with pytest.raises(DataError, match="num_workers=1"):
        list(work_on(iter, [(1,), lambda: None], 2))
    assert not active_children()


def test_the_cores_are_shared_among_the_tokenizers_of_the_workers() -> None:
    name = "RAYON_NUM_THREADS"
    told = {event.amount for event in work_on(os.getenv, [name, f"{name}"], 2)}
    cores = len(os.sched_getaffinity(0))
    assert told == {*str(max(1, cores // 2)), 0}


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in workers if is_running(pid)]


def is_running(pid: int) -> bool:
    """Say whether a process is there and no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_worker_that_stops_answering_is_given_up_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_pool, "_LEAVE_SECONDS", 0.5)
    with pytest.raises(DataError, match=r"worker process for 19 \(process \d+\) has .* for 2 s"):
        list(work_on(signal.raise_signal, [int(signal.SIGSTOP), int(signal.SIGSTOP)], 2, 2.0))
    assert not active_children()


def test_time_that_the_consumer_takes_is_not_that_of_the_workers() -> None:
    for _ in work_on(iter, [(1, 2), (3,)], 2, 1.0):
        time.sleep(1.5)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_with_their_tasks(num_workers: int) -> None:
    assert dict(map_on(abs, [0, -1, -2], num_workers)) == {0: 0, -1: 1, -2: 2}
