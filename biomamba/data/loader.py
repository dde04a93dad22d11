"""A DataLoader that does not wait for ever for a worker process that has stopped answering.

Such a worker is stopped, or waits for a disk or a network that does not answer. torch's loader
waits for it without a message; with its `timeout` it neither names the worker nor ends at a signal.
"""

import multiprocessing.process
import signal
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from biomamba.runtime import signals
from biomamba.runtime.errors import DataError
from biomamba.runtime.numbers import check_number

T_co = TypeVar("T_co", covariant=True)

WORKER_TIMEOUT_SECONDS = 300.0
# What is left of the 30 s between SIGTERM and SIGKILL (SLURM, torchrun) suffices to save.
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 1.0
_STATES = {"T": ", stopped", "D": ", waits for a disk", "Z": ", ended"}


class WorkerLoader(DataLoader[T_co]):
    """Loads items in order, without collating them, from worker processes that are watched.

    Args:
        dataset: Gives whole batches.
        num_workers: Processes; 0 loads in this one, which nothing watches.
        sampler: Order of the items; None for their own.
        timeout_seconds: Without an item of the worker whose turn it is for so long, its loader
            gives up; None waits for ever.

    Raises:
        ConfigError: If timeout_seconds is not positive.
    """

    def __init__(
        self,
        dataset: Dataset[T_co],
        *,
        num_workers: int,
        sampler: Sampler[int] | None = None,
        timeout_seconds: float | None = WORKER_TIMEOUT_SECONDS,
        pin_memory: bool | None = None,
    ) -> None:
        check_number("data.worker_timeout_seconds", timeout_seconds, above=0, optional=True)
        super().__init__(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            worker_init_fn=signals.shield_worker,
            generator=torch.Generator(),  # the random state of the process is the training's
            pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        )
        self.timeout_seconds = timeout_seconds

    def _get_iterator(self) -> _BaseDataLoaderIter:
        if not self.num_workers:
            return super()._get_iterator()
        self.check_worker_number_rationality()
        return _WatchedIterator(self)


class _WatchedIterator(_MultiProcessingDataLoaderIter):
    """Kills its workers when one of them gives nothing for too long, so that the wait ends.

    A thread does it. The main thread cannot look itself: it reads the item from a queue, but gets
    the memory of its tensors from the worker through a socket, and that read has no timeout.
    """

    def __init__(self, loader: WorkerLoader[Any]) -> None:
        self._timeout_seconds = loader.timeout_seconds
        self._wait_number = 0
        self._is_waiting = False
        self._end: BaseException | None = None  # why the workers were killed
        super().__init__(loader)
        threading.Thread(target=_watch, args=(weakref.ref(self),), daemon=True).start()

    def _next_data(self) -> Any:
        """Return the next item.

        Raises:
            DataError: If none came in time.
            Interrupted: If none came and this process was asked to stop.
        """
        self._wait_number += 1
        self._is_waiting = True
        try:
            return super()._next_data()  # type: ignore[no-untyped-call]
        except Exception as error:
            if self._end is None:
                raise
            raise self._end from error
        finally:
            self._is_waiting = False

    def give_up(self, waited: float, asked: float) -> bool:
        """Kill the workers if the wait was too long, given its seconds and those since a request.

        The item that came meanwhile is given out; the next one ends the loader.
        """
        if asked >= _PATIENCE_SECONDS:
            number = signals.received()
            reason = f"{signal.Signals(number).name} while {self._awaited()} gave nothing"
            self._end = signals.Interrupted(reason, number=number)
        elif self._timeout_seconds is not None and waited >= self._timeout_seconds:
            self._end = DataError(
                f"{self._awaited()} has given nothing for {waited:.0f} s: look what it waits for "
                "(a disk, a network, a debugger), or raise data.worker_timeout_seconds; the same "
                "command continues after the newest checkpoint"
            )
        else:
            return False
        self._kill_workers()
        return True

    def _awaited(self) -> str:
        info = self._task_info.get(self._rcvd_idx, (0,))
        stopped = [number for number, worker in enumerate(self._workers) if _is_stopped(worker)]
        number = stopped[0] if stopped else info[0]
        pid = self._workers[number].pid
        return f"data worker {number} of {len(self._workers)} (process {pid}{_state(pid)})"

    def _kill_workers(self) -> None:
        """Kill the workers: an exit would wait for one that is stopped and obeys no signal."""
        if self._worker_pids_set:  # else torch takes their end for a fault
            _remove_worker_pids(id(self))
            self._worker_pids_set = False
        for worker in self._workers:
            worker.kill()

    def _shutdown_workers(self) -> None:
        if not sys.is_finalizing() and not self._shutdown and any(map(_is_stopped, self._workers)):
            self._kill_workers()
        super()._shutdown_workers()
        for worker in self._workers:
            if worker.is_alive():
                # In the kernel, which waits for a disk: an exit of this process would wait, too.
                worker.kill()
                multiprocessing.process._children.discard(worker)  # type: ignore[attr-defined]


def _watch(reference: "weakref.ref[_WatchedIterator]") -> None:
    """Watch an iterator until it is gone or has been given up.

    Polls are counted, not read from a clock: a job that SLURM suspends has waited for nothing.
    """
    number, waited, asked = 0, 0.0, 0.0
    while True:
        time.sleep(_POLL_SECONDS)
        iterator = reference()
        if iterator is None or iterator._shutdown:
            return
        if not iterator._is_waiting or iterator._wait_number != number:
            number, waited, asked = iterator._wait_number, 0.0, 0.0
        else:
            waited += _POLL_SECONDS
            asked += _POLL_SECONDS if signals.received() else 0.0
            if iterator.give_up(waited, asked):
                return
        del iterator  # else it would live for as long as the sleep


def _is_stopped(process: Any) -> bool:
    return process.pid is not None and _stat(process.pid) == "T"


def _state(pid: int | None) -> str:
    return _STATES.get(_stat(pid), "") if pid is not None else ""


def _stat(pid: int) -> str:
    """Return the state of a process as Linux calls it; empty elsewhere."""
    if sys.platform != "linux":
        return ""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
