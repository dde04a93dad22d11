"""One rank of a run that is stopped and continued many times in the same process.

    srun python many_stops.py FOLDER EARLY_EVERY [key=value ...]

Trains the run `whole` without a stop, then the run `parts` again and again until it is done. What
happens is written line by line into FOLDER/rank-N.jsonl. After each stop the ranks wait until
FOLDER/go-N is there, so that a late signal belongs to the stop before it. Every EARLY_EVERY-th
attempt waits for FOLDER/sent-N, its first signal, before it trains.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from biomamba.runtime import signals

if __name__ == "__main__":
    for number in signals.SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # while nobody listens
    signals.listen()

import lightning

from biomamba import train
from biomamba.config.compose import compose_config
from biomamba.runtime.random_state import seed_everything
from biomamba.runtime.ranks import rank
from biomamba.training.launch import quiet_lightning

# Holds up one rank or both for the first steps of an attempt, so that signals find them in steps.
SLOW_SECONDS = 0.03
NUM_SLOW_STEPS = 20


class Watch(lightning.Callback):
    """Writes down every step, and holds up ranks."""

    def __init__(self, say: Callable[..., None], attempt: int, sent: Path | None) -> None:
        self._say, self._attempt, self._sent = say, attempt, sent
        self._num_slow_steps = 0 if attempt < 0 else NUM_SLOW_STEPS

    def setup(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        if stage == "fit" and self._sent is not None:
            self._say(event="ready")
            wait_for_file(self._sent)

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self._num_slow_steps > 0 and self._attempt % 3 in (trainer.global_rank, 2):
            time.sleep(SLOW_SECONDS)
        self._num_slow_steps -= 1

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        weights = hashlib.sha256()
        for parameter in module.parameters():
            weights.update(parameter.detach().numpy().tobytes())
        self._say(event="step", step=trainer.global_step, weights=weights.hexdigest())


def wait_for_file(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def fit(folder: Path, overrides: list[str], attempt: int, *, is_early: bool = False) -> bool:
    """Start the run; say whether it came to its end."""
    run_id = "whole" if attempt < 0 else "parts"
    sent = folder / f"sent-{attempt}" if is_early else None

    def say(**what: Any) -> None:
        with (folder / f"rank-{rank()}.jsonl").open("a") as file:
            file.write(json.dumps({"attempt": attempt, **what}) + "\n")

    build = train.build_callbacks
    train.build_callbacks = lambda nodes, run: [Watch(say, attempt, sent), *build(nodes, run)]
    say(event="begin", pid=os.getpid())
    seed_everything(1)
    try:
        train.train(compose_config("train", [*overrides, f"run_id={run_id}"]))
    except signals.Interrupted as stop:
        say(event="stop", reason=stop.reason)
        return False
    finally:
        train.build_callbacks = build
    say(event="end")
    return True


def main(folder: Path, early_every: int, overrides: list[str]) -> None:
    quiet_lightning()
    # These ranks may not put their job back into the queue.
    del os.environ["SLURM_JOB_ID"]
    assert fit(folder, overrides, -1)
    attempt = 0
    while not fit(folder, overrides, attempt, is_early=(attempt + 1) % early_every == 0):
        wait_for_file(folder / f"go-{attempt}")
        signals.restore()  # forgets the signals that came
        signals.listen()
        attempt += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
