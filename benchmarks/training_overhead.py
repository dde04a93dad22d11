"""What checkpoints, ledger, agreement and preemption cost a step, and how long a save blocks.

    python benchmarks/training_overhead.py

Trains the small model on the embedded corpora, with and without these callbacks at their default
intervals, in turn; then saves every few steps in the foreground and in the background, in turn.
One thread to a process, so that a second core is free for the background.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from embedded_data import prepare_embedded
from measurement import in_turn, print_table, spread, text_of, write_result
from stopped_run import Start
from timed_train import TIMES_NAME

from biomamba.training.callbacks.checkpoint import Checkpoints
from biomamba.training.callbacks.ledger import LedgerWriter
from biomamba.training.callbacks.preemption import Agreement, Preemption

TOKENS_PER_STEP = 1_024
BAR = 0.02  # of the time of a step
MEASURED = {
    "checkpoint": Checkpoints,
    "ledger": LedgerWriter,
    "agreement": Agreement,
    "preemption": Preemption,
}
INTERVAL_STEPS = 100  # of checkpoint and ledger by default
AGREEMENT_STEPS = 500
SAVE_EVERY = 4  # steps, so that a save in the background has ended before the next one
WARM_UP_STEPS = 3
SETTINGS = (
    "model=mamba2_small",
    f"tokens_per_step={TOKENS_PER_STEP}",
    "data.budget.seq_len=512",
    "data.budget.micro_batch_size=2",
    "data.max_val_documents=1",
    "data.verify=size",
    "trainer.val_check_interval=1_000_000",
    f"callbacks.checkpoint.every_n_steps={INTERVAL_STEPS}",
    "callbacks.progress=null",
)
WITHOUT = tuple(f"callbacks.{name}=null" for name in MEASURED)


def main() -> None:
    """Measure in a temporary folder."""
    options = _options()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where timed_train is
    with tempfile.TemporaryDirectory() as folder:
        fits = _Fits(Path(folder))
        results = {
            "settings": SETTINGS,
            "step": step_time(fits, options.steps, options.repeats),
            "save": save_time(fits, options.saves, options.repeats),
            "two_processes": two_processes(fits, options.steps),
        }
    _print(results)
    write_result("training_overhead", results, options.output)


class _Fits:
    """Trainings in processes of their own, each in a new run folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._data_dir = prepare_embedded(root)
        self._number = 0

    def times(self, num_steps: int, extra: Sequence[str], num_ranks: int = 1) -> dict[str, Any]:
        """Train and return what the timer wrote and the size of the newest checkpoint."""
        self._number += 1
        run_dir = self._root / f"run_{self._number}"
        tokens = (f"max_tokens={num_steps * TOKENS_PER_STEP}", f"paths.data_dir={self._data_dir}")
        start = Start(run_dir, (*SETTINGS, *tokens, *extra), num_ranks, "timed_train")
        start.finish()
        if start.exit_code:
            raise RuntimeError(start.errors)
        times: dict[str, Any] = json.loads((run_dir / TIMES_NAME).read_text(encoding="utf-8"))
        sizes = [path.stat().st_size for path in (run_dir / "checkpoints").glob("*.ckpt")]
        return times | {"checkpoint_bytes": max(sizes, default=0)}


def step_time(fits: _Fits, num_steps: int, repeats: int) -> dict[str, Any]:
    """Measure steps with and without the callbacks in turn, and the callbacks themselves."""
    found: dict[str, list[dict[str, Any]]] = {"with": [], "without": []}

    def fit(name: str) -> float:
        extra = WITHOUT if name == "without" else ()
        found[name].append(fits.times(num_steps, extra))
        return num_steps

    in_turn({name: partial(fit, name) for name in ("without", "with")}, repeats)
    means = {name: [_mean_step(times) for times in each] for name, each in found.items()}
    medians = {name: [_median_step(times) for times in each] for name, each in found.items()}
    step = statistics.median(means["without"])
    costs = [_costs(times) for times in found["with"]]
    shares = [sum(cost.values()) / step for cost in costs]
    return {
        "num_steps": num_steps,
        "mean_step_seconds": {name: spread(each) for name, each in means.items()},
        "mean_ratio": spread(_ratios(means)),
        "median_ratio": spread(_ratios(medians)),
        "milliseconds_per_step": {
            name: spread([1_000 * cost[name] for cost in costs]) for name in MEASURED
        },
        "share_of_step": spread(shares),
        "bar": BAR,
        "is_below_bar": max(shares) < BAR,
    }


def save_time(fits: _Fits, num_saves: int, repeats: int) -> dict[str, Any]:
    """Measure in turn how long saves hold up the training and how long the fits take."""
    blocked: dict[str, list[float]] = {"foreground": [], "background": []}
    steps: dict[str, list[float]] = {name: [] for name in blocked}
    sizes = []

    def fit(name: str) -> float:
        background = f"callbacks.checkpoint.in_background={str(name == 'background').lower()}"
        every = f"callbacks.checkpoint.every_n_steps={SAVE_EVERY}"
        # The last step saves too; it is not one of the saves while the training continues.
        times = fits.times(SAVE_EVERY * num_saves + 2, (every, background))
        hook = times["hook_seconds"]["Checkpoints.on_train_batch_end"]
        blocked[name] += hook[SAVE_EVERY - 1 :: SAVE_EVERY][:num_saves]
        steps[name].append(statistics.mean(times["step_seconds"][WARM_UP_STEPS:-2]))
        sizes.append(times["checkpoint_bytes"])
        return num_saves

    in_turn({name: partial(fit, name) for name in blocked}, repeats)
    return {
        "checkpoint_megabytes": max(sizes) / 1e6,
        "every_n_steps": SAVE_EVERY,
        "blocked_seconds": {name: spread(each) for name, each in blocked.items()},
        "mean_step_seconds": {name: spread(each) for name, each in steps.items()},
    }


def two_processes(fits: _Fits, num_steps: int) -> dict[str, Any]:
    """Measure the callbacks where they communicate: two processes over gloo."""
    every = num_steps // 4
    extra = ("data.budget.micro_batch_size=1", f"callbacks.agreement.every_n_steps={every}")
    times = fits.times(num_steps, extra, num_ranks=2)
    costs, step = _costs(times), _mean_step(times)
    # Not the first comparison: there the ranks also wait until both have started.
    comparisons = times["hook_seconds"]["Agreement.on_train_batch_end"][every - 1 :: every]
    costs["agreement"] = statistics.median(comparisons) / AGREEMENT_STEPS
    return {
        "num_steps": num_steps,
        "mean_step_seconds": step,
        "milliseconds_per_step": {name: 1_000 * cost for name, cost in costs.items()},
        "share_of_step": sum(costs.values()) / (step - sum(costs.values())),
    }


def _costs(times: dict[str, Any]) -> dict[str, float]:
    """Return seconds per step by callback, at its default interval."""
    hooks = times["hook_seconds"]
    num_steps = len(times["step_seconds"])
    costs = {}
    for name, callback in MEASURED.items():
        calls = [hooks[f"{callback.__name__}.on_train_batch_{end}"] for end in ("start", "end")]
        costs[name] = sum(map(sum, calls)) / num_steps
    # A short fit compares before its first step only.
    costs["agreement"] += hooks["Agreement.on_train_start"][0] / AGREEMENT_STEPS
    return costs


def _mean_step(times: dict[str, Any]) -> float:
    return statistics.mean(times["step_seconds"][WARM_UP_STEPS:])


def _median_step(times: dict[str, Any]) -> float:
    return statistics.median(times["step_seconds"][WARM_UP_STEPS:])


def _ratios(seconds: dict[str, list[float]]) -> list[float]:
    return [a / b for a, b in zip(seconds["with"], seconds["without"], strict=True)]


def _print(results: dict[str, Any]) -> None:
    step, save, two = results["step"], results["save"], results["two_processes"]
    print_table(
        f"Steps of {step['mean_step_seconds']['without']['median']:.2f} s (bar: {BAR:.0%})",
        ["callback", "ms per step", "ms per step of two processes"],
        [
            [name, text_of(cost), f"{two['milliseconds_per_step'][name]:.2f}"]
            for name, cost in step["milliseconds_per_step"].items()
        ]
        + [
            [
                "all, % of a step",
                text_of({name: 100 * each for name, each in step["share_of_step"].items()}),
                f"{100 * two['share_of_step']:.2f}",
            ],
            ["mean step with / without", text_of(step["mean_ratio"], 3), ""],
            ["median step with / without", text_of(step["median_ratio"], 3), ""],
        ],
    )
    print_table(
        f"Saves of {save['checkpoint_megabytes']:.0f} MB, every {SAVE_EVERY} steps",
        ["written in the", "training waits, ms", "mean step, s"],
        [
            [
                name,
                text_of({key: 1_000 * value for key, value in each.items()}, 0),
                text_of(save["mean_step_seconds"][name], 3),
            ]
            for name, each in save["blocked_seconds"].items()
        ],
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=INTERVAL_STEPS)
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
