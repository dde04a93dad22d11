"""Stop a run at random moments, continue on other numbers of ranks, compare with an unbroken run.

    make soak

Three runs of the tiny model on the embedded corpora: one that is never stopped, one that is stopped
and continues with one process, one that is stopped and continues with 1, 2 or 4 ranks. The exit
code is 1 if they differ by more than the tolerances or if a start ends in an unexpected way.
"""

import argparse
import json
import logging
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from embedded_data import prepare_embedded
from measurement import print_table, write_result
from safetensors.torch import load_file
from stopped_run import Start, Stop, plan
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biomamba.config.cli import STOPPED_CODE
from biomamba.data.ledger import Ledger, compare

TOKENS_PER_STEP = 1_024
EVERY_N_STEPS = 5
SETTINGS = (
    f"tokens_per_step={TOKENS_PER_STEP}",
    "data.budget.seq_len=128",
    "data.budget.micro_batch_size=2",  # the 8 rows of a step are 2 for each of 4 ranks
    "data.max_val_documents=2",
    "data.verify=size",
    "trainer.val_check_interval=100",
    "trainer.log_every_n_steps=1",
    "callbacks.progress=null",
    f"callbacks.checkpoint.every_n_steps={EVERY_N_STEPS}",
    "callbacks.ledger.every_n_steps=20",
    "callbacks.agreement.every_n_steps=25",
)


@dataclass(frozen=True)
class Tolerance:
    """How far a run may be from the one that nobody stopped; sums of ranks have another order."""

    loss: float
    weight: float


EXACT = Tolerance(0.0, 0.0)
OTHER_ORDER = Tolerance(loss=1e-5, weight=1e-5)


def main() -> int:
    """Run everything in a temporary folder; return the exit code."""
    options = _options()
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every resumed curve
    began = time.monotonic()
    settings = (*SETTINGS, f"max_tokens={options.steps * TOKENS_PER_STEP}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        arguments = (*settings, f"paths.data_dir={prepare_embedded(root)}")
        whole = stopped(root / "whole", arguments, [], 1, options.seed)
        last_step = options.steps - 8 * EVERY_N_STEPS  # it must not end before its stop
        one = plan(options.seed, [1], options.stops // 3, last_step)
        several = plan(options.seed + 1, options.world_sizes, options.stops, last_step)
        runs = {
            "one process": stopped(root / "one", arguments, one, 1, options.seed),
            "other numbers of ranks": stopped(
                root / "several", arguments, several, options.world_sizes[-1], options.seed
            ),
        }
        for (name, run), tolerance in zip(runs.items(), (EXACT, OTHER_ORDER), strict=True):
            folders = (root / ("one" if name == "one process" else "several"), root / "whole")
            run["comparison"] = comparison(*folders, run["starts"])
            run["tolerance"] = asdict(tolerance)
            run["problems"] = [*run["problems"], *problems(run["comparison"], tolerance, options)]
    results = {"seed": options.seed, "steps": options.steps, "settings": settings}
    results |= {"uninterrupted": whole, "stopped": runs}
    results["wall_seconds"] = round(time.monotonic() - began, 1)
    _print(results)
    write_result("soak", results, options.output)
    return int(any(run["problems"] for run in (whole, *runs.values())))


def stopped(
    run_dir: Path, arguments: tuple[str, ...], stops: list[Stop], last_world_size: int, seed: int
) -> dict[str, Any]:
    """Train to the end with one start more than there are stops; return every start."""
    rng = random.Random(seed)
    starts: list[dict[str, Any]] = []
    found = []
    began = time.monotonic()
    for stop in [*stops, None]:
        world_size = stop.world_size if stop else last_world_size
        start_began = time.monotonic()
        start = Start(run_dir, arguments, world_size)
        event: dict[str, Any] = asdict(stop) if stop else {"world_size": world_size}
        if stop:
            event |= start.stop(stop, rng)
        else:
            start.finish()
        event |= {"first_step": start.first_step, "exit_code": start.exit_code}
        event["seconds"] = round(time.monotonic() - start_began, 1)
        print(f"{run_dir.name}: {json.dumps(event)}", flush=True)
        if problem := _unexpected(event, stop, starts):
            found.append(f"{problem}: {start.errors[-2000:]}")
        starts.append(event)
    return {
        "starts": starts,
        "exit_codes": Counter(str(event["exit_code"]) for event in starts),
        "wall_seconds": round(time.monotonic() - began, 1),
        "problems": found,
    }


def _unexpected(event: dict[str, Any], stop: Stop | None, earlier: list[dict[str, Any]]) -> str:
    """Say what a start did that it should not have done; empty if nothing."""
    allowed = {0}
    if stop:
        number = signal.Signals[stop.signal]
        allowed = {-number} if number == signal.SIGKILL else {STOPPED_CODE}
        # Until the interpreter has read the first lines of the program nobody listens.
        allowed |= {-number} if stop.step is None else set()
    if event["exit_code"] not in allowed:
        return f"exit code {event['exit_code']}, not one of {sorted(allowed)}"
    saved = max((before["newest_checkpoint"] for before in earlier), default=0)
    if event["first_step"] is not None and event["first_step"] < saved:
        return f"continued after step {event['first_step']} although step {saved} was saved"
    return ""


def comparison(stopped_dir: Path, whole_dir: Path, starts: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare what two runs have trained on, their curves and their weights."""
    mine, its = Ledger(stopped_dir / "ledger"), Ledger(whole_dir / "ledger")
    steps = compare(mine, its)
    entries = np.concatenate(list(mine.chunks()))
    pieces = entries[["source", "key", "start"]]
    points, wanted = _points(stopped_dir), dict(_points(whole_dir))
    curve = dict(points)
    weights = [load_file(run / "model" / "model.safetensors") for run in (stopped_dir, whole_dir)]
    records = [json.loads((run / "run.json").read_text()) for run in (stopped_dir, whole_dir)]
    missing = sorted(wanted.keys() - curve.keys())
    return {
        "compared_steps": steps.num_compared_steps,
        "first_different_step": steps.first_difference,
        "missing_steps": mine.gaps,
        "pieces": len(entries),
        "pieces_twice": len(pieces) - len(np.unique(pieces)),
        "points": len(curve),
        "points_twice": len(points) - len(curve),
        "missing_points": missing,
        "unexplained_missing_points": sorted(set(missing) - steps_behind_kills(starts)),
        "loss_difference": max(abs(curve[step] - wanted[step]) for step in curve),
        "weight_difference": max(
            float((value - weights[0][name]).abs().max()) for name, value in weights[1].items()
        ),
        "is_same_data": all(
            records[0][part] == records[1][part] for part in ("data_fingerprint", "realised")
        ),
    }


def steps_behind_kills(starts: list[dict[str, Any]]) -> set[int]:
    """Return the steps that a run continued at after a kill.

    A kill may come between a checkpoint and the point of its step; a request to stop may not.
    """
    found = set()
    is_killed = False
    for start in starts:
        step = start["first_step"]
        if step is not None:
            found |= {step} if is_killed else set()
            is_killed = False
        is_killed = is_killed or start.get("signal") == signal.SIGKILL.name
    return found


def problems(found: dict[str, Any], tolerance: Tolerance, options: argparse.Namespace) -> list[str]:
    """Return what makes a run another one than the run that nobody stopped."""
    is_wrong = {
        "ledger": found["compared_steps"] != options.steps
        or found["first_different_step"] is not None
        or bool(found["missing_steps"]),
        "pieces twice": found["pieces_twice"] > 0,
        "points": found["points_twice"] > 0 or bool(found["unexplained_missing_points"]),
        "loss": found["loss_difference"] > tolerance.loss,
        "weights": found["weight_difference"] > tolerance.weight,
        "data": not found["is_same_data"],
    }
    return [f"{name} differ: {found}" for name, is_so in is_wrong.items() if is_so]


def _points(run_dir: Path) -> list[tuple[int, float]]:
    curves = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return [(point.step, point.value) for point in curves.Scalars("train/loss")]


def _print(results: dict[str, Any]) -> None:
    headings = ["run", "starts by exit code", "pieces", "loss differs by", "weights by", "seconds"]
    rows = [_row("never stopped", results["uninterrupted"])]
    rows += [_row(name, run) for name, run in results["stopped"].items()]
    print_table(f"{results['steps']} steps, seed {results['seed']}", headings, rows)
    for name, run in results["stopped"].items():
        for problem in run["problems"]:
            print(f"{name}: {problem}")


def _row(name: str, run: dict[str, Any]) -> list[str]:
    codes = ", ".join(f"{number} x {code}" for code, number in sorted(run["exit_codes"].items()))
    found = run.get("comparison")
    figures = ["", "", ""]
    if found:
        figures = [f"{found['pieces']:,}"]
        for what in ("loss", "weight"):
            limit = run["tolerance"][what]
            figures.append(f"{found[f'{what}_difference']:.1e} (<= {limit:.0e})")
    return [name, codes, *figures, f"{run['wall_seconds']:.0f}"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--stops", type=int, default=15)
    parser.add_argument("--world-sizes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
