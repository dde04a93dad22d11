"""Run the unfinished steps of a chain, some at the same time, with progress and signals."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from biomamba.runtime import signals
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.provenance import code_version
from biomamba.runtime.signals import end_with
from biomamba.workflow.chain import Step, shell_line
from biomamba.workflow.record import Record

# -------------------------------------------------------------------------------------------------
# Signals that ask a chain to stop; they do nothing but count.
# -------------------------------------------------------------------------------------------------

_SAME_SECONDS = 0.2


class StopRequest:
    """What has been asked so far.

    Attributes:
        count: How many signals came.
        name: Of the first; empty without one.
        number: Of the first; 0 without one.
    """

    def __init__(self) -> None:
        self.count = 0
        self.name = ""
        self.number = 0
        self._times: dict[int, float] = {}

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Count a signal; the same at once again was forwarded by another program."""
        now, earlier = time.monotonic(), self._times.get(number)
        self._times[number] = now
        if earlier is not None and now - earlier < _SAME_SECONDS:
            return
        self.count += 1
        self.number = self.number or number
        self.name = self.name or signal.Signals(number).name


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Take signals as requests to stop; afterwards they have their earlier effect.

    SIGHUP and SIGINT stay ignored where they are, as under nohup.
    """
    request = StopRequest()
    earlier: dict[int, Any] = {
        number: signal.signal(number, request)
        for number in signals.SIGNALS
        if number not in signals.BY_HAND or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


# -------------------------------------------------------------------------------------------------
# One process at a time runs a chain; what it started counts as long as it lives.
# -------------------------------------------------------------------------------------------------

LOCK_NAME = ".chain.lock"


@contextmanager
def chain_lock(folder: Path, patience_seconds: float = 10.0) -> Iterator[int]:
    """Hold the folder of a chain, and yield the descriptor that holds it.

    A process that has the descriptor too holds the folder as well. Those of a chain that was
    killed end soon, so they are waited for.

    Raises:
        ConfigError: Another process holds the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_NAME).open("w")
    except OSError as error:
        raise ConfigError(
            f"cannot write in {folder} ({error.strerror}): fix the rights or set paths.run_dir"
        ) from error
    with file:
        end = time.monotonic() + patience_seconds
        while not _is_taken(file.fileno()):
            if time.monotonic() >= end:
                raise ConfigError(
                    f"another process runs the chain in {folder}: wait until it has ended, or set "
                    "paths.run_dir to another folder"
                )
            time.sleep(0.2)
        yield file.fileno()


def _is_taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# -------------------------------------------------------------------------------------------------
# How far a chain is, and how long the rest will take.
# -------------------------------------------------------------------------------------------------


def expected_seconds(
    step: Step, steps: Iterable[Step], records: Mapping[str, Record]
) -> float | None:
    """Return how long a step will take: as its twins took on average, or as it is told, if so."""
    twins = [
        records[other.name].seconds
        for other in steps
        if other.template == step.template
        and other.name in records
        and records[other.name].is_finished
    ]
    if twins:
        return sum(twins) / len(twins)
    return None if step.minutes is None else 60 * step.minutes


def remaining_seconds(
    steps: Sequence[Step],
    records: Mapping[str, Record],
    running: Mapping[str, float],
    jobs: int,
) -> float | None:
    """Return how long the steps that are not finished will take; None if it is not known of one.

    Args:
        steps: All steps, each after those it builds upon.
        records: Of the steps that have ended.
        running: Seconds since the start of those that run.
        jobs: How many run at the same time.
    """
    left: dict[str, float] = {}
    ends: dict[str, float] = {}
    for step in steps:
        record = records.get(step.name)
        is_open = record is None or not record.is_finished
        whole = expected_seconds(step, steps, records) if is_open else 0.0
        if whole is None:
            return None
        left[step.name] = max(0.0, whole - running.get(step.name, 0.0))
        ends[step.name] = left[step.name] + max((ends[name] for name in step.after), default=0.0)
    return max(sum(left.values()) / jobs, *ends.values())


def duration(seconds: float) -> str:
    """Return a time in words."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def position(step: Step, steps: Sequence[Step]) -> str:
    """Return which step of how many this is."""
    return f"step {steps.index(step) + 1} of {len(steps)} {step.name}"


def rough(seconds: float | None) -> str:
    """Return an estimate in words, no more exact than it is."""
    if seconds is None:
        return "unknown"
    minutes = max(1, round(seconds / 60))
    return f"about {minutes} min" if minutes < 120 else f"about {minutes / 60:.0f} h"


# -------------------------------------------------------------------------------------------------
# The process of one step: started with a log of its own, asked to stop, never left behind.
# -------------------------------------------------------------------------------------------------

LOGS_FOLDER = "logs"


def log_path(folder: Path, step: str) -> Path:
    """Return the log of a step."""
    return folder / LOGS_FOLDER / f"{step}.log"


@dataclass(frozen=True)
class Surroundings:
    """What the processes of a chain have in common.

    Attributes:
        folder: Of the chain.
        environment: Of a process.
        kept_open: Descriptors that a process shall have too, so that the lock of the chain holds
            for as long as one of its steps lives.
    """

    folder: Path
    environment: Mapping[str, str]
    kept_open: tuple[int, ...] = ()


class StepProcess:
    """A step that runs.

    It has a process group of its own: Ctrl-C reaches the chain alone, which then asks the step to
    stop as SLURM would. The kernel kills it when the chain itself is killed.

    Args:
        step: The step.
        around: What it has in common with the others.
        extra: Arguments of this start alone.
    """

    def __init__(self, step: Step, around: Surroundings, extra: tuple[str, ...] = ()) -> None:
        self.step = step
        self.log = log_path(around.folder, step.name)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join([shell_line(step), *extra])}\n")
            file.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-m", *step.command, *extra],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=dict(around.environment),
                pass_fds=around.kept_open,
                start_new_session=True,
                preexec_fn=_prepare(os.getpid()),  # noqa: PLW1509 - no threads run here
            )

    @property
    def seconds(self) -> float:
        """Return the time since the start."""
        return time.monotonic() - self.began

    def exit_code(self) -> int | None:
        """Return the code of a process that has ended, its own processes with it; else None."""
        code = self._process.poll()
        if code is not None:
            self._send_to_group(signal.SIGKILL)
        return code

    def ask_to_stop(self) -> None:
        """Send SIGTERM, on which a training saves and others end at once."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End the process and its own processes at once."""
        self._send_to_group(signal.SIGKILL)

    def _send_to_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return


def last_lines(log: Path, count: int = 15) -> str:
    """Return the end of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-count:])


def _prepare(parent: int) -> Callable[[], None] | None:
    """Return what is called in the process before its program; a thread would end with `exec`."""
    return partial(end_with, parent) if sys.platform == "linux" else None


# -------------------------------------------------------------------------------------------------
# Run the steps of a chain that are not finished, some of them at the same time.
# -------------------------------------------------------------------------------------------------

STOPPED_CODE = 75
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Ending:
    """How a chain ended.

    Attributes:
        failed: The step that failed; None if none did.
        exit_code: Of it.
        stopped: What stopped the chain before its end; empty if nothing did.
        number: The signal that did; 0 for another reason.
        log: Of the failed step.
    """

    failed: Step | None = None
    exit_code: int = 0
    stopped: str = ""
    number: int = 0
    log: Path | None = None


@dataclass
class Runner:
    """Runs a chain.

    Attributes:
        steps: All steps, each after those it builds upon.
        folder: Of the chain.
        records: Of the steps that have ended, kept up to date.
        finished: Names of the steps that need not run.
        settings: sha256 of the configuration of each step.
        extra: Arguments of this start alone, by step.
        jobs: How many steps run at the same time.
        report_seconds: After which time what runs is told again.
        tell: Takes a line for the user.
    """

    steps: Sequence[Step]
    folder: Path
    records: dict[str, Record]
    finished: set[str]
    settings: Mapping[str, str]
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    jobs: int = 1
    report_seconds: float = 300.0
    tell: Callable[[str], Any] = print
    _running: dict[str, tuple[StepProcess, str]] = field(default_factory=dict)
    _ended: tuple[Step, int, Path] | None = None
    _began: float = 0.0

    def run(self, request: StopRequest, kept_open: tuple[int, ...] = ()) -> Ending:
        """Run until all steps are finished, one fails, or a signal comes."""
        self._began = told = time.monotonic()
        asked = 0
        while True:
            is_ending = bool(request.count) or self._ended is not None
            if not is_ending:
                self._start_ready(kept_open)
            if not self._running:
                return self._ending(request)
            if is_ending:
                asked = self._end_others(asked, 1 + max(0, request.count - 1))
            time.sleep(_POLL_SECONDS)
            self._collect()
            if time.monotonic() - told >= self.report_seconds:
                told = time.monotonic()
                for process, _ in self._running.values():
                    self.tell(f"{position(process.step, self.steps)} runs ({self._times()})")

    def _start_ready(self, kept_open: tuple[int, ...]) -> None:
        for step in self.steps:
            if len(self._running) >= self.jobs:
                return
            is_open = step.name not in self.finished and step.name not in self._running
            if is_open and self.finished.issuperset(step.after):
                self.tell(f"{position(step, self.steps)} ({self._times()})")
                started = datetime.now(UTC).isoformat(timespec="seconds")
                surroundings = Surroundings(self.folder, environment(self.jobs), kept_open)
                process = StepProcess(step, surroundings, self.extra.get(step.name, ()))
                self._running[step.name] = (process, started)

    def _collect(self) -> None:
        """Keep the record of what has ended."""
        for name, (process, started) in list(self._running.items()):
            code = process.exit_code()
            if code is None:
                continue
            del self._running[name]
            self._keep(process, started, code)
            if code == 0:
                self.finished.add(name)
                took = duration(process.seconds)
                self.tell(f"{position(process.step, self.steps)} is done in {took}")
            elif self._ended is None:
                self._ended = (process.step, code, process.log)

    def _keep(self, process: StepProcess, started: str, code: int) -> None:
        step = process.step
        earlier = self.records.get(step.name)
        is_same = earlier and not earlier.is_finished and earlier.command == list(step.command)
        record = Record(
            step=step.name,
            command=list(step.command),
            settings_sha256=self.settings[step.name],
            code=code_version(),
            started=started,
            seconds=round(process.seconds + (earlier.seconds if earlier and is_same else 0.0), 1),
            exit_code=code,
        )
        record.write(self.folder)
        self.records[step.name] = record

    def _end_others(self, asked: int, level: int) -> int:
        """Ask once what still runs to stop; kill it when the user asks again."""
        if asked == 0:
            names = ", ".join(self._running)
            self.tell(f"asking {names} to stop; a training saves first, another signal kills it")
        for process, _ in self._running.values():
            if asked == 0:
                process.ask_to_stop()
            elif level > asked:
                process.kill()
        return level

    def _ending(self, request: StopRequest) -> Ending:
        if request.count:
            return Ending(stopped=request.name, number=request.number)
        if self._ended is None:
            return Ending()
        step, code, log = self._ended
        if code == STOPPED_CODE:
            return Ending(stopped=f"{step.name} was asked to stop")
        return Ending(failed=step, exit_code=code if code > 0 else 128 - code, log=log)

    def _times(self) -> str:
        running = {name: process.seconds for name, (process, _) in self._running.items()}
        rest = remaining_seconds(self.steps, self.records, running, self.jobs)
        return f"elapsed {duration(time.monotonic() - self._began)}, remaining {rough(rest)}"


def environment(jobs: int) -> dict[str, str]:
    """Return the environment of a step: the cores are shared, unless the user has said how."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shared = {"OMP_NUM_THREADS": str(max(1, (cores or 1) // jobs)), "PYTHONUNBUFFERED": "1"}
    return shared | dict(os.environ)
