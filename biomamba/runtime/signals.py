"""Signals: requests to stop, and processes that end with the one that started them.

SLURM sends SIGTERM to a job that it preempts or cancels and the signal of `--signal` before the
time limit; Ctrl-C is SIGINT, a terminal that closes sends SIGHUP. A handler may interrupt any line,
also a collective that other ranks have not reached: whoever saves, communicates or exits in it can
hang the run. So it does nothing but set the flag, and the program ends at its next safe point;
only in preparations, before the ranks know each other, it may end them at once.

This module needs only the standard library: a program calls `start_program` or `listen` before its
other imports, which take seconds, because the default action of most signals is to kill the
process.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

# Sent by a person or a terminal: nobody wants SLURM to start such a job again.
BY_HAND = (signal.SIGINT, signal.SIGHUP)
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, *BY_HAND)

STOPPED_CODE = 75  # sysexits.h, "temporary failure"
INTERRUPTED_CODE = 128 + signal.SIGINT

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PARENT_POLL_SECONDS = 1.0
# One Ctrl-C may arrive twice, from the terminal and from a program that forwards it.
_SAME_INTERRUPT_SECONDS = 1.0

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Interrupted(BaseException):
    """The run stops before its end and can be continued; no `except Exception` may swallow it.

    Args:
        reason: What stopped it, and what was saved.
        is_settled: SLURM has been asked already whether the job shall start again.
        number: The signal; 0 for another reason.
    """

    def __init__(self, reason: str, *, is_settled: bool = False, number: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_settled = is_settled
        self.number = number

    @property
    def exit_code(self) -> int:
        """Return the exit code of the program: 130 and 129 as of a shell, else 75."""
        return 128 + self.number if self.number in BY_HAND else STOPPED_CODE


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


def start_program() -> None:
    """Prepare a program that saves nothing on signals; to be called before its other imports.

    Ctrl-C during the imports ends it in one line; `interruptible` says what it does later. A rank
    that torchrun started ends with torchrun.
    """
    end_with_launcher()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_interrupted)


def interruptible() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, now that somebody catches it."""
    if signal.getsignal(signal.SIGINT) is _exit_interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def listen() -> None:
    """Take the signals as requests to stop; a second call changes nothing.

    SIGHUP and SIGINT stay ignored where they are, as under nohup and in the background of a shell.
    A second Ctrl-C ends the process at once, also where its main thread waits in a collective.
    """
    if _flag.pid == os.getpid():
        return
    _flag.pid, _flag.signal = os.getpid(), 0
    ignored = [number for number in BY_HAND if signal.getsignal(number) == signal.SIG_IGN]
    _flag.earlier = {
        number: signal.signal(number, _flag) for number in SIGNALS if number not in ignored
    }
    _second_interrupts.start()


def restore() -> None:
    """Give the signals back to the handlers that had them; a request that came is forgotten."""
    if _flag.pid != os.getpid():
        return
    _second_interrupts.stop()
    for number, handler in _flag.earlier.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
    _flag.pid, _flag.signal, _flag.earlier = 0, 0, {}


def restore_for_training() -> None:
    """Restore the handlers, but let Ctrl-C raise Interrupted: at KeyboardInterrupt Lightning exits.

    Its exit code would be 1, that of a defect.
    """
    restore()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _raise_interrupted)


def _exit_interrupted(*_: object) -> None:
    os.write(2, b"stopped: SIGINT\n")
    os._exit(INTERRUPTED_CODE)


def _raise_interrupted(*_: object) -> None:
    raise Interrupted("SIGINT: nothing saved", is_settled=True, number=signal.SIGINT)


class _SecondInterrupts:
    """A thread that ends the process at the second Ctrl-C.

    Python's handlers run in the main thread between two bytecodes, which a collective or a lock may
    keep it from for minutes. The interpreter's C handler writes each signal into a pipe at once.
    """

    def __init__(self) -> None:
        self._ends: tuple[int, int] | None = None
        self._earlier = -1

    def start(self) -> None:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self._ends = reader, writer
        self._earlier = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    def stop(self) -> None:
        if self._ends is not None:
            signal.set_wakeup_fd(self._earlier)
            os.close(self._ends[1])  # the thread reads the end of the pipe and closes its own
            self._ends = None

    def leave_to_parent(self) -> None:
        """In a forked child: its signals are none of the parent's."""
        if self._ends is not None:
            signal.set_wakeup_fd(-1)
            for end in self._ends:
                os.close(end)
            self._ends = None

    @staticmethod
    def _watch(reader: int) -> None:
        first: float | None = None
        while numbers := os.read(reader, 64):
            if signal.SIGINT not in numbers:
                continue
            now = time.monotonic()
            first = now if first is None else first
            if now - first > _SAME_INTERRUPT_SECONDS:
                os.write(2, b"stopped: second SIGINT: nothing saved, ended at once\n")
                os._exit(INTERRUPTED_CODE)
        os.close(reader)


_second_interrupts = _SecondInterrupts()
os.register_at_fork(after_in_child=_second_interrupts.leave_to_parent)


def ignore() -> None:
    """Let no request change the exit code any more, for a process that is about to end.

    srun sends SIGTERM to the other ranks as soon as one has ended, and an interpreter that shuts
    down has given up its handlers: the signal would kill it, and the code of the job be 143.
    """
    if _flag.pid == os.getpid():
        for number in SIGNALS:
            # Ctrl-C still ends a process that cannot end itself; its code is that of a signal.
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.SIG_DFL if is_interrupt else signal.SIG_IGN)


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
        raise Interrupted(f"{signal.Signals(number).name} before the first step", number=number)


def shield_worker(worker_id: int) -> None:
    """Keep a loader's worker process alive when the signal goes to every process of the job.

    For `DataLoader(worker_init_fn=...)`. A worker that dies takes the run with it before it can
    save. torch's own handler dies of any SIGTERM that is not the parent's; here only the
    parent's SIGTERM ends the worker.
    """
    del worker_id
    end_with_parent()
    for number in (signal.SIGUSR1, signal.SIGUSR2, *BY_HAND):
        signal.signal(number, signal.SIG_IGN)
    # Blocked here and in the threads to come: the thread alone takes it, with its sender.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_at_word_of, args=(os.getppid(),), daemon=True).start()


def _end_at_word_of(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def end_with_parent() -> None:
    """Let this process of `multiprocessing` die when its parent dies, also if it has just done so.

    torch's own watch needs seconds, and never ends a worker whose parent was killed while it
    started. Meanwhile the worker holds the sockets of the parent, and other ranks wait for them.
    """
    parent = multiprocessing.parent_process()
    end_with(os.getppid() if parent is None or parent.pid is None else parent.pid)


def end_with_launcher() -> None:
    """Let this rank die when the torchrun that started it dies; other launchers are left alone.

    A rank that lives on waits for the others in a collective, for half an hour or for ever, and
    holds the folder of the run. It is killed, not asked to stop: without torchrun's store the ranks
    cannot agree on a step to save. A program that a shell or srun started lives on without it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    parent = os.getppid()
    if parent == 1 and not _is_launcher(parent):
        os._exit(1)  # it died before this line, and init has taken its place
    end_with(parent)


def end_with(parent: int) -> None:
    """Let this process die when the process `parent`, which started it, dies or has died.

    On Linux the kernel kills it, whatever it does, also where it is stopped. The kernel takes the
    death of the thread that started it for that of the parent: torchrun, `multiprocessing` and
    chains start processes from threads that wait for their end. Elsewhere a thread looks every
    second.
    """
    if _LIBC is None:
        threading.Thread(target=_end_without, args=(parent,), daemon=True).start()
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _end_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_SECONDS)
    os._exit(1)


def _is_launcher(pid: int) -> bool:
    """Say whether a process runs Python, as torchrun does; a container may start with it."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"python" in command or b"torchrun" in command
