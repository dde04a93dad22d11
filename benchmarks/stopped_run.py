"""Start a training run, stop it as planned, and tell how it ended."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomamba.training.checkpoint_io import checkpoints_in

_START_SECONDS = 180  # a start that has not come so far hangs
_END_SECONDS = 120  # torchrun alone waits 30 seconds before it kills the other ranks
_POLL_SECONDS = 0.02
# One entry of torchrun's report on the ranks that failed, the first failure last.
_FAILURE = re.compile(r"rank\s+: (\d+) \(local_rank: \d+\)\s+exitcode\s+: (-?\d+)")


@dataclass(frozen=True)
class Stop:
    """How one start is stopped.

    Attributes:
        world_size: Ranks of the start.
        signal: Name of the signal.
        is_for_all: It goes to all ranks (and SIGKILL to their launcher), else to one.
        step: It comes after the first checkpoint at or after this step; None: while the ranks
            start.
        delay_seconds: How long after that.
    """

    world_size: int
    signal: str
    is_for_all: bool
    step: int | None
    delay_seconds: float


def plan(seed: int, world_sizes: Sequence[int], num_stops: int, last_step: int) -> list[Stop]:
    """Draw the stops of a run: every signal and world size in turn, everything else at random."""
    rng = random.Random(seed)
    kinds = [("SIGKILL", False), ("SIGTERM", True), ("SIGKILL", True), ("SIGUSR1", False)]
    sizes = [world_sizes[number % len(world_sizes)] for number in range(num_stops)]
    rng.shuffle(sizes)
    drawn = [kinds[number % len(kinds)] for number in range(num_stops)]
    rng.shuffle(drawn)
    steps: list[int | None] = [*sorted(rng.sample(range(1, last_step), num_stops))]
    for number in rng.sample(range(num_stops), num_stops // 5):
        steps[number] = None
    return [
        # While they start, the ranks cannot agree yet: there SLURM's way, all at once.
        Stop(size, name, is_for_all or step is None, step, rng.uniform(0, 1 if step else 8))
        for size, (name, is_for_all), step in zip(sizes, drawn, steps, strict=True)
    ]


class Start:
    """One start of a training program in a run folder.

    Args:
        run_dir: The run folder.
        arguments: Of the program, without those of the trainer.
        world_size: Number of ranks, over gloo.
        program: Name of its module.
        trainer: Configuration of several ranks.
    """

    def __init__(
        self,
        run_dir: Path,
        arguments: Sequence[str],
        world_size: int,
        program: str = "biomamba.train",
        trainer: str = "cpu_2",
    ) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._run_dir = run_dir
        self._world_size = world_size
        self._program = program
        self._num_earlier = len(self._starts())
        self._error_path = run_dir.parent / f"{run_dir.name}.err"
        ranks = ("torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}", "-m")
        several = (f"trainer={trainer}", f"trainer.devices={world_size}")
        command = [sys.executable, "-m", *(ranks if world_size > 1 else ()), program]
        command += [*arguments, f"paths.run_dir={run_dir}", "run_id=soak"]
        command += several if world_size > 1 else ("trainer=cpu",)
        with self._error_path.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=run_dir.parent,
                env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def stop(self, stop: Stop, rng: random.Random) -> dict[str, Any]:
        """Wait for the moment, send the signal, wait for the end; return what happened."""
        try:
            self._wait(lambda: len(self._ranks()) == self._world_size, _START_SECONDS)
            if stop.step is not None:
                step = stop.step
                self._wait(lambda: self.first_step is not None, _START_SECONDS)
                self._wait(lambda: self.newest_step >= step, _START_SECONDS)
            time.sleep(stop.delay_seconds)
            newest_step = self.newest_step
        except BaseException:
            self.kill([])
            raise
        is_for_launcher = stop.is_for_all and stop.signal == "SIGKILL"
        target = "one" if not stop.is_for_all else "all" if is_for_launcher else "ranks"
        seconds = self.send(signal.Signals[stop.signal], target, rng)
        return {"newest_checkpoint": newest_step, "seconds_to_end": seconds}

    def send(self, number: signal.Signals, target: str, rng: random.Random) -> float:
        """Send a signal and wait until nothing of the start runs any more.

        Args:
            number: The signal.
            target: `one` rank, all `ranks`, their `launcher`, or `all` of these.
            rng: Draws the one rank.

        Returns:
            Seconds until the last process had ended.

        Raises:
            RuntimeError: A process lives on; it is killed.
        """
        ranks = self._ranks()
        launcher = [self._process.pid]
        pids = {
            "one": [rng.choice(ranks or launcher)],
            "ranks": ranks,
            "launcher": launcher,
            "all": [*launcher, *ranks],
        }[target]
        try:
            for pid in pids:
                _send(pid, number)
            sent = time.monotonic()
            self._wait(
                lambda: self._process.poll() is not None and not any(map(_is_alive, ranks)),
                _END_SECONDS,
                is_ended=True,
            )
        finally:
            self.kill(ranks)
        return round(time.monotonic() - sent, 2)

    def finish(self) -> None:
        """Wait until the run is done."""
        try:
            self._process.wait(_START_SECONDS + _END_SECONDS)
        finally:
            self.kill([])

    def kill(self, ranks: Sequence[int]) -> None:
        """Leave nothing behind."""
        for pid in {*ranks, *self._ranks()}:
            _send(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    @property
    def is_running(self) -> bool:
        """Whether the program itself, or the launcher of its ranks, still runs."""
        return self._process.poll() is None

    @property
    def first_step(self) -> int | None:
        """Step that the training started at; None if it did not come so far."""
        begun = self._starts()[self._num_earlier :]
        return int(begun[0]["step"]) if begun else None

    @property
    def newest_step(self) -> int:
        """Step of the newest checkpoint; 0 without one."""
        return max(checkpoints_in(self._run_dir / "checkpoints"), default=0)

    @property
    def exit_code(self) -> int:
        """Exit code of the rank that ended first; that of the launcher if no rank failed."""
        failures = _FAILURE.findall(self._error_path.read_text(errors="replace"))
        return int(failures[-1][1]) if failures else int(self._process.returncode)

    @property
    def errors(self) -> str:
        """What the start wrote to its error output."""
        return self._error_path.read_text(errors="replace")

    def _starts(self) -> list[dict[str, Any]]:
        with suppress(OSError):
            record = json.loads((self._run_dir / "run.json").read_text(encoding="utf-8"))
            return list(record.get("starts", []))
        return []

    def _ranks(self) -> list[int]:
        """Return the processes that train: the program itself or the children of torchrun."""
        pid = self._process.pid
        if self._world_size == 1:
            return [pid]
        with suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return [child for child in map(int, children) if self._is_rank(child)]
        return []

    def _is_rank(self, pid: int) -> bool:
        with suppress(OSError):
            return self._program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False

    def _wait(self, is_so: Callable[[], bool], seconds: float, *, is_ended: bool = False) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            if not is_ended and self._process.poll() is not None:
                raise RuntimeError(f"the run ended before its stop:\n{self.errors[-3000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the run hangs:\n{self.errors[-3000:]}")
            time.sleep(_POLL_SECONDS)


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_alive(pid: int) -> bool:
    """Say whether a process runs; one that waits for its parent to notice its end does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
