"""Run the steps of a chain that are not finished, some of them at the same time."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from biomamba.runtime.code_version import code_version
from biomamba.workflow.process import StepProcess, Surroundings
from biomamba.workflow.progress import duration, position, remaining_seconds, rough
from biomamba.workflow.record import Record
from biomamba.workflow.step import Step
from biomamba.workflow.stop_request import StopRequest

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
        steps: All steps, each behind those it builds upon.
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
