"""The process of one step: started with a log of its own, asked to stop, never left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from biomamba.runtime.signals import end_with
from biomamba.workflow.commands import shell_line
from biomamba.workflow.step import Step

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
