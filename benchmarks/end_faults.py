"""Kill training runs while they end, start them again, and compare with runs that nobody killed.

    make end-faults

The last tenth of a run has its own faults: the last step, its checkpoint, the last validation, the
selected and the averaged weights, the exported models and the record follow each other within a
second. Every run here is killed there once or twice, at a moment drawn from the seed; then the same
command is run until it ends with 0, and what it leaves must be what a run leaves that was never
killed. Ends with 1 if anything differs that is not listed in `MAY_DIFFER`.
"""

import argparse
import json
import logging
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embedded_data import prepare_embedded
from measurement import print_table, write_result
from stopped_run import Start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biomamba.config.cli import STOPPED_CODE
from biomamba.data.ledger import Ledger, compare
from biomamba.training.checkpoint_io import checkpoint_name, checkpoints_in

STEPS = 20
TOKENS_PER_STEP = 1_024
CHECKPOINT_EVERY = 3  # step 18, where the last tenth starts, and step 20, the last one
SETTINGS = (
    "model=mamba2_tiny",
    f"max_tokens={STEPS * TOKENS_PER_STEP}",
    f"tokens_per_step={TOKENS_PER_STEP}",
    "data.budget.seq_len=128",
    "data.budget.micro_batch_size=4",
    "data.max_val_documents=2",
    "data.verify=size",
    "trainer.val_check_interval=2",  # steps 18 and 20 have a checkpoint and a validation
    "trainer.log_every_n_steps=1",
    "callbacks.progress=null",
    f"callbacks.checkpoint.every_n_steps={CHECKPOINT_EVERY}",
)
# Ranks and trainer of each kind of run.
KINDS = {"one": (1, "cpu"), "ddp": (2, "cpu_2"), "fsdp": (2, "cpu_2_fsdp")}
CALLBACKS: dict[str, tuple[str, ...]] = {
    "ema": ("callbacks=ema", "callbacks.ema.decay=0.9"),
    "select": ("callbacks=select",),
    # The figure falls from step to step: here the earlier of two validations is selected.
    "ema_select": (
        "callbacks=ema_select",
        "callbacks.ema.decay=0.9",
        "callbacks.selection.mode=max",
    ),
}
MAY_DIFFER = {
    "run.json": "provenance, starts: times, hosts, commits and how often the run was started",
    "checkpoint": "/loops: Lightning's own counters, of which a start reads none after the last "
    "step; /callbacks/LedgerWriter/folder: a path; /run/reason: the request that a step was saved "
    "for",
    "curves": "throughput/ and system/: measured; train/ of the steps that a start continued at: "
    "SIGKILL may come between a checkpoint and the point of its step",
    "files": "which steps before the last one have checkpoints: a request to stop saves its own; "
    "tensorboard/, .hydra/ and ledger/: a file per start (the curves and the ledger are "
    "compared by their content)",
}
_FREE_LEAVES = re.compile(r"/loops/|/callbacks/LedgerWriter/folder$|/run/reason$")
_EARLIER_STEP = re.compile(rf"step_(?!{STEPS:07d})\d{{7}}")
_FREE_FILES = ("tensorboard/", ".hydra/", "ledger/")
_MEASURED_TAGS = ("throughput/", "system/")
_MODELS = ("model", "model_ema", "model_best")
_POLL_SECONDS = 0.002
_EVENT_SECONDS = 180

# What can be seen from outside while a run ends, and the longest delay after it in seconds.
EVENTS = {
    "training starts": 0.6,
    "last tenth starts": 0.5,
    "last checkpoint is written": 0.03,
    "last checkpoint is there": 0.5,
    "model_ema is written": 0.03,
    "model is written": 0.03,
    "model_best is written": 0.03,
    "record is closed": 0.2,
}
_LAST_MODEL = {"ema": {"model_best is written"}}
_LAST_MODEL["select"] = {"model_ema is written"}


class Watch:
    """Sees what changes in a run folder since a start; remembers when it saw it first."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._before = self._state()
        self._began = time.monotonic()
        self.seen: dict[str, float] = {}

    def look(self) -> None:
        """Note the events that have happened since the last look."""
        state = self._state()
        was_there = self._before["newest"]
        newest, record = state["newest"], state["record"]
        num_starts = len(self._before["record"].get("starts", []))
        has_started = len(record.get("starts", [])) > num_starts
        happened = {
            "training starts": has_started,
            "last tenth starts": was_there < newest and newest >= STEPS * 9 // 10,
            "last checkpoint is written": was_there < STEPS
            and any(checkpoint_name(STEPS) in name for name in state["checkpoints"]),
            "last checkpoint is there": was_there < STEPS <= newest,
            "record is closed": has_started and "after" in record,
        }
        for name in _MODELS:
            happened[f"{name} is written"] = state[name] != self._before[name]
        now = round(time.monotonic() - self._began, 3)
        for name, has_happened in happened.items():
            if has_happened:
                self.seen.setdefault(name, now)

    @property
    def latest(self) -> str:
        """The event that was seen last: the phase that the start is in."""
        order = list(EVENTS)
        latest = max(self.seen, key=lambda name: (self.seen[name], order.index(name)), default="")
        return latest or "before the training starts"

    def _state(self) -> dict[str, Any]:
        folder = self._run_dir
        checkpoints = _names(folder / "checkpoints")
        state: dict[str, Any] = {
            "record": _record(folder),
            "checkpoints": checkpoints,
            "newest": max(checkpoints_in(folder / "checkpoints"), default=0),
        }
        # A model that is being written may still have a temporary name: .model.1234.tmp
        for name in _MODELS:
            state[name] = {
                (entry, stat.st_ino, stat.st_mtime_ns)
                for entry in _names(folder)
                if entry.lstrip(".").split(".")[0] == name
                for path in (folder / entry, *_children(folder / entry))
                if (stat := _stat(path)) is not None
            }
        return state


@dataclass
class Run:
    """One run folder: its kills, its other starts, and how it differs from the one not killed."""

    kind: str
    callbacks: str
    kills: list[dict[str, Any]] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Driver:
    """Draws and makes the kills.

    Args:
        root: A folder for all runs.
        seed: Of every draw.
        moments: Events that kills come after.
        keep: Where the folders of runs with problems are copied to; None to drop them.
    """

    def __init__(self, root: Path, seed: int, moments: list[str], keep: Path | None = None) -> None:
        self._root = root
        self._moments = moments
        self._rng = random.Random(seed)
        self._keep = keep
        self._arguments = (*SETTINGS, f"paths.data_dir={prepare_embedded(root)}")
        self._signals = self._endless(["SIGKILL"] * 4 + ["SIGTERM"])
        self._targets = {
            "SIGKILL": self._endless(["one", "all", "launcher"]),
            "SIGTERM": self._endless(["ranks", "launcher"]),
        }
        self._first_events = {name: self._events(name, is_first=True) for name in CALLBACKS}
        self._later_events = {name: self._events(name, is_first=False) for name in CALLBACKS}
        self._num_runs = 0

    def whole(self, kind: str, callbacks: str) -> Path:
        """Return the folder of the run that is not killed."""
        run_dir = self._root / f"whole_{kind}_{callbacks}"
        start = self._start(run_dir, kind, callbacks)
        start.finish()
        if start.exit_code != 0:
            raise RuntimeError(f"{run_dir.name} ended with {start.exit_code}:\n{start.errors}")
        return run_dir

    def killed(self, kind: str, callbacks: str, num_kills: int, whole: Path) -> Run:
        """Kill a run so many times, run it to its end, and compare it."""
        self._num_runs += 1
        run_dir = self._root / f"run_{self._num_runs:02d}_{kind}_{callbacks}"
        run = Run(kind, callbacks)
        self._kill_and_finish(run, run_dir, num_kills)
        if not run.problems:
            run.problems += differences(run_dir, whole, _resumed_steps(run_dir))
        if run.problems and self._keep is not None:
            shutil.copytree(run_dir, self._keep / run_dir.name, dirs_exist_ok=True)
        shutil.rmtree(run_dir)
        return run

    def _kill_and_finish(self, run: Run, run_dir: Path, num_kills: int) -> None:
        while len(run.kills) < num_kills:
            event = self._kill(run, run_dir)
            print(f"{run_dir.name}: {json.dumps(event)}", flush=True)
            if event["is_killed"]:
                run.kills.append(event)
            if run.problems:
                return
            if event["exit_code"] == 0 or "after" in _record(run_dir):
                break  # the next start has nothing left to do
        start = self._start(run_dir, run.kind, run.callbacks)
        start.finish()
        run.exit_codes.append(start.exit_code)
        if start.exit_code != 0:
            run.problems.append(f"exit code {start.exit_code}: {start.errors[-2000:]}")

    def _kill(self, run: Run, run_dir: Path) -> dict[str, Any]:
        """Start the run, wait for the moment, send the signal; return what happened."""
        is_first = max(checkpoints_in(run_dir / "checkpoints"), default=0) < STEPS
        events = self._first_events if is_first else self._later_events
        moment = next(events[run.callbacks])
        delay_seconds = self._rng.uniform(0, EVENTS[moment])
        watch = Watch(run_dir)
        start = self._start(run_dir, run.kind, run.callbacks)
        is_reached = self._wait(start, watch, moment, delay_seconds)
        name = next(self._signals)
        several = KINDS[run.kind][0] > 1
        target = next(self._targets[name]) if several else "launcher"
        event: dict[str, Any] = {"moment": moment, "delay_seconds": round(delay_seconds, 3)}
        is_running = start.is_running
        watch.look()
        try:
            seconds = start.send(signal.Signals[name], target, self._rng)
        except RuntimeError as error:
            run.problems.append(f"{name} to {target} {watch.latest}: {error}")
            seconds = None
        code = start.exit_code
        event |= {"is_reached": is_reached, "phase": watch.latest, "seen": dict(watch.seen)}
        event |= {"signal": name, "target": target if several else "process"}
        event |= {"exit_code": code, "seconds_to_end": seconds, "is_killed": is_running}
        run.exit_codes.append(code)
        if is_running and (problem := _unexpected(name, event["target"], code, start)):
            run.problems.append(f"{name} to {target} {watch.latest}: {problem}")
        if not is_running and code != 0:
            run.problems.append(f"ended alone with {code}: {start.errors[-2000:]}")
        return event

    def _wait(self, start: Start, watch: Watch, moment: str, delay_seconds: float) -> bool:
        """Wait for an event and a time after it; False if the start ended first."""
        deadline = time.monotonic() + _EVENT_SECONDS
        while moment not in watch.seen:
            if not start.is_running:
                return False
            if time.monotonic() > deadline:
                break  # it hangs, and the signal shows whether it still listens
            time.sleep(_POLL_SECONDS)
            watch.look()
        end = time.monotonic() + delay_seconds
        while start.is_running and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
            watch.look()
        return moment in watch.seen

    def _start(self, run_dir: Path, kind: str, callbacks: str) -> Start:
        world_size, trainer = KINDS[kind]
        arguments = (*self._arguments, *CALLBACKS[callbacks])
        return Start(run_dir, arguments, world_size, trainer=trainer)

    def _events(self, callbacks: str, *, is_first: bool) -> Iterator[str]:
        """Return the moments in turn; a start after the last step has others than the first."""
        left = [name for name in EVENTS if name not in _LAST_MODEL.get(callbacks, set())]
        early = {"training starts"} if is_first else {n for n in EVENTS if n.startswith("last ")}
        left = [name for name in left if name not in early]
        return self._endless([name for name in left if name in self._moments] or left)

    def _endless(self, values: list[str]) -> Iterator[str]:
        while True:
            yield from self._rng.sample(values, len(values))


def differences(run_dir: Path, whole: Path, resumed_steps: set[int]) -> list[str]:
    """Return how a run differs from one that was not killed, in what may not differ."""
    return [
        *_different_models(run_dir, whole),
        *_different_checkpoints(run_dir, whole),
        *_different_records(run_dir, whole),
        *_different_ledgers(run_dir, whole),
        *_different_files(run_dir, whole),
        *_different_curves(run_dir, whole, resumed_steps),
    ]


def _different_models(run_dir: Path, whole: Path) -> list[str]:
    found = []
    for path in sorted(path for name in _MODELS for path in (whole / name).glob("**/*")):
        mine = run_dir / path.relative_to(whole)
        if path.is_file() and mine.is_file() and _digest(mine) != _digest(path):
            found.append(f"bits of {path.relative_to(whole)} differ")
    return found


def _different_checkpoints(run_dir: Path, whole: Path) -> list[str]:
    paths = [folder / "checkpoints" / checkpoint_name(STEPS) for folder in (run_dir, whole)]
    if not all(path.is_file() for path in paths):
        return [f"no checkpoint of step {STEPS}"]
    mine, its = (
        dict(_leaves(torch.load(path, map_location="cpu", weights_only=True))) for path in paths
    )
    names = [
        name
        for name in sorted(mine.keys() | its.keys())
        if not _FREE_LEAVES.search(name) and not _is_equal(mine.get(name), its.get(name))
    ]
    return [f"leaves of the last checkpoint differ ({len(names)}): {names[:5]}"] if names else []


def _different_records(run_dir: Path, whole: Path) -> list[str]:
    mine, its = _record(run_dir), _record(whole)
    compared = (mine.keys() | its.keys()) - {"provenance", "starts"}
    found = [
        f"run.json: {name} is {mine.get(name)}, not {its.get(name)}"
        for name in sorted(compared)
        if mine.get(name) != its.get(name)
    ]
    end = mine.get("starts", [{}])[-1].get("end")
    return found if end == "finished" else [*found, f"run.json: the last start ends with {end!r}"]


def _different_ledgers(run_dir: Path, whole: Path) -> list[str]:
    mine, its = Ledger(run_dir / "ledger"), Ledger(whole / "ledger")
    steps = compare(mine, its)
    found = []
    if steps.num_compared_steps != STEPS or steps.first_difference is not None or mine.gaps:
        found.append(
            f"ledger: {steps.num_compared_steps} steps compared, the first difference at "
            f"{steps.first_difference}, gaps {mine.gaps}"
        )
    entries = np.concatenate(list(mine.chunks()))[["source", "key", "start"]]
    if twice := len(entries) - len(np.unique(entries)):
        found.append(f"ledger: {twice} pieces twice")
    return found


def _different_files(run_dir: Path, whole: Path) -> list[str]:
    mine, its = (
        {
            _EARLIER_STEP.sub("step_<earlier>", name)
            for path in folder.rglob("*")
            if path.is_file()
            and not (name := str(path.relative_to(folder))).startswith(_FREE_FILES)
        }
        for folder in (run_dir, whole)
    )
    numbers = [len(checkpoints_in(folder / "checkpoints")) for folder in (run_dir, whole)]
    found = [f"{numbers[0]} checkpoints, not {numbers[1]}"] if numbers[0] != numbers[1] else []
    found += [f"a file too many: {name}" for name in sorted(mine - its)]
    return [*found, *(f"no file {name}" for name in sorted(its - mine))]


def _different_curves(run_dir: Path, whole: Path, resumed_steps: set[int]) -> list[str]:
    mine, its = _curves(run_dir), _curves(whole)
    tags_by_fault: dict[str, list[str]] = {}
    for tag in mine.keys() | its.keys():
        points, expected = mine.get(tag, []), dict(its.get(tag, []))
        numbers = Counter(step for step, _ in points)
        missing = expected.keys() - numbers.keys()
        missing -= resumed_steps if tag.startswith("train/") else set()
        is_measured = tag.startswith(_MEASURED_TAGS)
        other = {
            step
            for step, value in points
            if not (is_measured and step in expected) and not _is_equal(value, expected.get(step))
        }
        twice = {step for step, number in numbers.items() if number > 1}
        for fault, steps in (("twice", twice), ("missing", missing), ("of another value", other)):
            if steps:
                tags_by_fault.setdefault(f"points {fault} at {sorted(steps)}", []).append(tag)
    return [f"curves: {fault}: {sorted(tags)}" for fault, tags in sorted(tags_by_fault.items())]


def _resumed_steps(run_dir: Path) -> set[int]:
    """Return the steps that starts continued at."""
    return {int(start["step"]) for start in _record(run_dir).get("starts", [])[1:]}


def _record(run_dir: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        record: dict[str, Any] = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        return record
    return {}


def _curves(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _leaves(child, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for number, child in enumerate(value):
            yield from _leaves(child, f"{name}/{number}")
    else:
        yield name, value


def _is_equal(mine: Any, its: Any) -> bool:
    if isinstance(mine, torch.Tensor) and isinstance(its, torch.Tensor):
        return mine.dtype == its.dtype and torch.equal(mine, its)
    is_nan = isinstance(mine, float) and isinstance(its, float) and mine != mine and its != its  # noqa: PLR0124
    return is_nan or (type(mine) is type(its) and bool(mine == its))


def _unexpected(name: str, target: str, code: int, start: Start) -> str:
    """Say what is wrong with the exit code of a start that got a signal; empty if nothing."""
    is_wrong = code == 0
    if name == "SIGTERM":  # after its last step a run may rather end than stop
        codes = {0, STOPPED_CODE}
        codes |= {1} if target == "launcher" else set()  # torchrun's own code
        is_wrong = code not in codes
    return f"exit code {code}: {start.errors[-2000:]}" if is_wrong else ""


def _names(folder: Path) -> list[str]:
    with suppress(OSError):
        return [entry.name for entry in os.scandir(folder)]
    return []


def _children(folder: Path) -> list[Path]:
    return [folder / name for name in _names(folder)] if folder.is_dir() else []


def _stat(path: Path) -> os.stat_result | None:
    with suppress(OSError):
        return path.stat()
    return None


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Make all kills in a temporary folder; return the exit code."""
    options = _options()
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    began = time.monotonic()
    cells = [(kind, name) for kind in options.kinds for name in options.callbacks]
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(Path(folder), options.seed, options.moments, options.keep)
        whole: dict[tuple[str, str], Path] = {}
        number = 0
        while (left := options.kills - sum(len(run.kills) for run in runs)) > 0:
            if number > 3 * options.kills:
                raise RuntimeError("the runs end before they can be killed")
            cell = cells[number % len(cells)]
            if cell not in whole:
                whole[cell] = driver.whole(*cell)
            run = driver.killed(*cell, min(left, 2 - number // len(cells) % 2), whole[cell])
            number += 1
            runs.append(run)
            done = sum(len(run.kills) for run in runs)
            minutes = (time.monotonic() - began) / 60
            equal = "equal" if not run.problems else "; ".join(run.problems)
            print(f"{done} of {options.kills} kills, {minutes:.1f} min: {equal}", flush=True)
    results = _summary(runs) | {"seed": options.seed, "steps": STEPS, "settings": SETTINGS}
    results |= {"callbacks": CALLBACKS, "may_differ": MAY_DIFFER, "runs": [asdict(r) for r in runs]}
    results["wall_seconds"] = round(time.monotonic() - began, 1)
    _print(results, runs)
    write_result("end_faults", results, options.output)
    return int(results["equal_kills"] != results["kills"])


def _summary(runs: list[Run]) -> dict[str, Any]:
    kills = [kill for run in runs for kill in run.kills]
    return {
        "kills": len(kills),
        "equal_kills": sum(len(run.kills) for run in runs if not run.problems),
        "kills_by_phase": Counter(kill["phase"] for kill in kills),
        "kills_by_signal": Counter(f"{kill['signal']} to {kill['target']}" for kill in kills),
        "kills_by_kind": Counter(run.kind for run in runs for _ in run.kills),
    }


def _print(results: dict[str, Any], runs: list[Run]) -> None:
    by_phase: dict[str, list[bool]] = {}
    for run in runs:
        for kill in run.kills:
            by_phase.setdefault(kill["phase"], []).append(not run.problems)
    rows = [[phase, str(len(flags)), str(sum(flags))] for phase, flags in by_phase.items()]
    rows.append(["all", str(results["kills"]), str(results["equal_kills"])])
    print_table("kills by the last thing seen before", ["phase", "kills", "equal"], rows)
    for run in runs:
        for problem in run.problems:
            moments = ", ".join(f"{kill['signal']} {kill['phase']}" for kill in run.kills)
            print(f"{run.kind} {run.callbacks} ({moments}): {problem}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--callbacks", nargs="+", choices=list(CALLBACKS), default=list(CALLBACKS))
    parser.add_argument("--moments", nargs="+", choices=list(EVENTS), default=list(EVENTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="copy the folders of runs that differ to here")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
