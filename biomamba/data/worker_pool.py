"""Work on tasks in several processes, with progress; an error or a death ends all of them.

Processes are spawned, not forked: the tokenizer and the readers of remote files hold threads and
locks that do not survive a fork.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pickle import PicklingError
from threading import Thread
from typing import Any, Generic, TypeVar

from biomamba.runtime.errors import BioMambaError, DataError

Task = TypeVar("Task")
Work = Callable[[Any], Iterator[int]]  # yields amounts of work done
_LEAVE_SECONDS = 10


@dataclass(frozen=True)
class Progress(Generic[Task]):
    """Some work on a task is done, or all of it."""

    task: Task
    amount: int
    is_finished: bool


def work_on(work: Work, tasks: Sequence[Task], num_workers: int) -> Iterator[Progress[Task]]:
    """Work on every task and yield the progress; with one worker in this process.

    Args:
        work: Called with a task; for several workers it and the tasks must be picklable.
        tasks: Started in this order.
        num_workers: Processes.

    Raises:
        DataError: If a worker died, or work or tasks cannot be sent to processes.
        Exception: What `work` raised. No worker is left, whatever happened.
    """
    num_workers = min(num_workers, len(tasks))
    if num_workers > 1:
        yield from _Pool(work, tasks, num_workers).run()
        return
    for task in tasks:
        for amount in work(task):
            yield Progress(task, amount, is_finished=False)
        yield Progress(task, 0, is_finished=True)


class _Pool(Generic[Task]):
    def __init__(self, work: Work, tasks: Sequence[Task], num_workers: int) -> None:
        self._work = work
        self._waiting = list(reversed(tasks))
        self._num_workers = num_workers
        self._workers: dict[Connection, BaseProcess] = {}
        self._current: dict[Connection, Task] = {}

    def run(self) -> Iterator[Progress[Task]]:
        try:
            for _ in range(self._num_workers):
                self._assign(self._start())
            while self._current:
                for connection in wait(list(self._current)):
                    assert isinstance(connection, Connection)
                    yield self._receive(connection)
        finally:
            self._stop()

    def _start(self) -> Connection:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        num_threads = max(1, _num_cores() // self._num_workers)
        process = context.Process(
            target=_serve, args=(theirs, self._work, num_threads), daemon=True
        )
        with _told_if_not_picklable():
            process.start()
        theirs.close()  # so that the death of the worker ends the connection
        self._workers[ours] = process
        return ours

    def _assign(self, connection: Connection) -> None:
        self._current.pop(connection, None)
        if self._waiting:
            task = self._waiting.pop()
            self._current[connection] = task
            with _told_if_not_picklable():
                connection.send(task)

    def _receive(self, connection: Connection) -> Progress[Task]:
        task = self._current[connection]
        try:
            answer = connection.recv()
        except (EOFError, ConnectionError) as error:
            process = self._workers[connection]
            process.join()
            raise DataError(
                f"the worker process for {task} died (exit code {process.exitcode}), perhaps for "
                "want of memory; what is committed is safe, run again, with fewer workers"
            ) from error
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            self._assign(connection)
        return Progress(task, answer or 0, is_finished=answer is None)

    def _stop(self) -> None:
        for process in self._workers.values():
            process.terminate()
        for connection, process in self._workers.items():
            process.join(_LEAVE_SECONDS)
            process.kill()
            process.join()
            connection.close()


@contextmanager
def _told_if_not_picklable() -> Iterator[None]:
    try:
        yield
    except (PicklingError, TypeError, AttributeError, NotImplementedError) as error:
        raise DataError(
            f"this corpus cannot be handed to worker processes ({error}); use num_workers=1"
        ) from error


def _num_cores() -> int:
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def _serve(connection: Connection, work: Work, num_threads: int) -> None:
    """Run a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, _leave)
    Thread(target=_die_with_parent, daemon=True).start()
    os.environ["RAYON_NUM_THREADS"] = str(num_threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if num_threads > 1 else "false"
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            for amount in work(task):
                connection.send(amount)
        except BioMambaError as error:
            connection.send(error)
        except Exception:  # noqa: BLE001 - handed to the parent with its place
            connection.send(RuntimeError(f"in the worker for {task}:\n{traceback.format_exc()}"))
        else:
            connection.send(None)


def _leave(*_: object) -> None:
    sys.exit(1)  # unwinds the work, which removes its temporary files


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
