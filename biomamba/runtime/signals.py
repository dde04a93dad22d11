"""Requests to stop: a signal sets a flag, and the program ends at its next safe point.

SLURM sends SIGTERM to a job that it preempts or cancels and the signal of `--signal` before the
time limit. A handler may interrupt any line, also a collective that other ranks have not reached:
whoever saves, communicates or exits in it can hang the run. So it does nothing but set the flag;
only in preparations, before the ranks know each other, it may end them at once.

This module needs only the standard library: a program listens before its other imports, which
take seconds, because the default action of these signals is to kill the process.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Interrupted(BaseException):
    """The run stops before its end and can be continued; no `except Exception` may swallow it.

    Args:
        reason: What stopped it, and what was saved.
        is_settled: SLURM has been asked already whether the job shall start again.
    """

    def __init__(self, reason: str, *, is_settled: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_settled = is_settled


class _Flag:
    """The request of this process; a forked child inherits the handler and no request."""

    def __init__(self) -> None:
        self.pid = 0
        self.signal = 0
        self.is_immediate = False
        self.earlier: dict[int, _Handler] = {}

    def __call__(self, signum: int, _frame: FrameType | None) -> None:
        if os.getpid() == self.pid and self.signal == 0:
            self.signal = signum
            if self.is_immediate:
                check()


_flag = _Flag()


def listen() -> None:
    """Take SIGTERM, SIGUSR1 and SIGUSR2 as requests to stop; a second call changes nothing."""
    if _flag.pid == os.getpid():
        return
    _flag.pid, _flag.signal = os.getpid(), 0
    _flag.earlier = {number: signal.signal(number, _flag) for number in SIGNALS}


def restore() -> None:
    """Give the signals back to the handlers that had them; a request that came is forgotten."""
    if _flag.pid != os.getpid():
        return
    for number, handler in _flag.earlier.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
    _flag.pid, _flag.signal, _flag.earlier = 0, 0, {}


def ignore() -> None:
    """Let no request change the exit code any more, for a process that is about to end.

    srun sends SIGTERM to the other ranks as soon as one has ended, and an interpreter that shuts
    down has given up its handlers: the signal would kill it, and the code of the job be 143.
    """
    if _flag.pid == os.getpid():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def received() -> int:
    """Return the number of the first signal that asked this process to stop; 0 if none did."""
    return _flag.signal if os.getpid() == _flag.pid else 0


@contextmanager
def immediate() -> Iterator[None]:
    """Let a signal end the block at once, for long work that is safe to leave as by Ctrl-C.

    No rank may wait for another in it.

    Raises:
        Interrupted: if a signal came, also before the block.
    """
    _flag.is_immediate = True
    try:
        check()
        yield
    finally:
        _flag.is_immediate = False
    check()


def check() -> None:
    """End here if a signal came; to be called only where other ranks wait for nothing.

    Raises:
        Interrupted: if a signal came.
    """
    if number := received():
        raise Interrupted(f"{signal.Signals(number).name} before the first step")


def shield_worker(worker_id: int) -> None:
    """Keep a loader's worker process alive when SLURM signals every process of the job.

    For `DataLoader(worker_init_fn=...)`. A worker that dies takes the run with it before it can
    save. torch's own handler dies of any SIGTERM that is not the parent's; here only the
    parent's SIGTERM ends the worker.
    """
    del worker_id
    _die_with_parent()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # Blocked here and in the threads to come: the thread alone takes it, with its sender.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _die_with_parent() -> None:
    """Let the kernel kill this worker when its parent dies, also if it has just done so.

    torch's own watch needs seconds, and never ends a worker whose parent was killed while it
    started. Meanwhile the worker holds the sockets of the parent, and other ranks wait for them.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid != os.getppid():
        os._exit(1)


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
