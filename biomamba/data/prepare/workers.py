"""Work on tasks in several processes, with progress; an error or a death ends all of them.

Processes are spawned, not forked: the tokenizer and the readers of remote files hold threads and
locks that do not survive a fork.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pickle import PicklingError
from typing import Any, Generic, TypeVar

from biomamba.runtime import signals
from biomamba.runtime.errors import BioMambaError, DataError

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Any], Iterator[Any]]  # yields amounts of work done
TIMEOUT_SECONDS = 900.0
_LEAVE_SECONDS = 10
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Progress(Generic[Task]):
    """Some work on a task is done, or all of it."""

    task: Task
    amount: Any
    is_finished: bool


def work_on(
    work: Work,
    tasks: Sequence[Task],
    num_workers: int,
    timeout_seconds: float | None = TIMEOUT_SECONDS,
) -> Iterator[Progress[Task]]:
    """Work on every task and yield the progress; with one worker in this process.

    Args:
        work: Called with a task; for several workers it and the tasks must be picklable.
        tasks: Started in this order.
        num_workers: Processes.
        timeout_seconds: A worker process that reports nothing for so long is given up; None waits
            for ever.

    Raises:
        DataError: If a worker died or was given up, or work or tasks cannot be sent to processes.
        Exception: What `work` raised. No worker is left, whatever happened.
    """
    num_workers = min(num_workers, len(tasks))
    if num_workers > 1:
        yield from _Pool(work, tasks, num_workers, timeout_seconds).run()
        return
    for task in tasks:
        for amount in work(task):
            yield Progress(task, amount, is_finished=False)
        yield Progress(task, 0, is_finished=True)


class _Pool(Generic[Task]):
    def __init__(
        self,
        work: Work,
        tasks: Sequence[Task],
        num_workers: int,
        timeout_seconds: float | None,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._silent_seconds: dict[Connection, float] = {}
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
                ready = wait(list(self._current), _POLL_SECONDS)
                if not ready:
                    self._note_silence()
                for connection in ready:
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

    def _note_silence(self) -> None:
        """Give up a worker that has reported nothing for too long.

        Only polls in which nobody reported are counted, no clock: a suspended job, or one whose
        consumer is slow, has waited for nothing.
        """
        for connection, task in self._current.items():
            silent = self._silent_seconds.get(connection, 0.0) + _POLL_SECONDS
            self._silent_seconds[connection] = silent
            if self._timeout_seconds is not None and silent >= self._timeout_seconds:
                process = self._workers[connection]
                raise DataError(
                    f"the worker process for {task} (process {process.pid}) has reported nothing "
                    f"for {silent:.0f} s: look what it waits for (stopped, a disk, a network), or "
                    "raise worker_timeout_seconds; what is committed is safe, run again"
                )

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
        self._silent_seconds.pop(connection, None)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            self._assign(connection)
        return Progress(task, 0 if answer is None else answer, is_finished=answer is None)

    def _stop(self) -> None:
        """End the workers; they have some seconds to remove their temporary files."""
        try:
            for process in self._workers.values():
                process.terminate()
            end = time.monotonic() + _LEAVE_SECONDS
            for process in self._workers.values():
                process.join(max(0.0, end - time.monotonic()))
        finally:  # also at the next Ctrl-C
            for connection, process in self._workers.items():
                process.kill()
                process.join()
                connection.close()


def map_on(
    function: Callable[[Any], Result],
    tasks: Sequence[Task],
    num_workers: int,
    timeout_seconds: float | None = TIMEOUT_SECONDS,
) -> Iterator[tuple[Task, Result]]:
    """Apply a function to every task and yield each with its result, in the order of the ends.

    For the arguments and errors see `work_on`.
    """
    for event in work_on(_Once(function), tasks, num_workers, timeout_seconds):
        if not event.is_finished:
            yield event.task, event.amount


@dataclass(frozen=True)
class _Once:
    """Work whose only amount is the result of a function."""

    function: Callable[[Any], Any]

    def __call__(self, task: Any) -> Iterator[Any]:
        yield self.function(task)


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
    signals.end_with_parent()
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
