"""The program `biomamba.train`, with a clock on its steps and on what the callbacks do in each."""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning

from biomamba import train
from biomamba.config.cli import run_cli

TIMES_NAME = "times.json"
_HOOKS = ("on_train_start", "on_train_batch_start", "on_train_batch_end")


class HookTimer(lightning.Callback):
    """Writes seconds from the start of a step to that of the next, and of each call of a hook."""

    def __init__(self) -> None:
        self._begins: list[float] = []
        self._hooks: dict[str, list[float]] = defaultdict(list)

    def on_fit_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Put a clock around the hooks of the other callbacks."""
        for callback in getattr(trainer, "callbacks", ()):
            if callback is not self:
                for hook in _HOOKS:
                    name = f"{type(callback).__name__}.{hook}"
                    setattr(callback, hook, _timed(getattr(callback, hook), self._hooks[name]))

    def on_train_batch_start(self, *_: Any) -> None:
        """Note the time."""
        self._begins.append(time.perf_counter())

    def on_train_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Write all times into the run folder."""
        times = [*self._begins, time.perf_counter()]
        steps = [end - begin for begin, end in pairwise(times)]
        if trainer.is_global_zero:
            content = {"step_seconds": steps, "hook_seconds": self._hooks}
            path = Path(trainer.default_root_dir) / TIMES_NAME
            path.write_text(json.dumps(content), encoding="utf-8")


def _timed(hook: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    @wraps(hook)
    def call(*arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return hook(*arguments, **options)
        finally:
            seconds.append(time.perf_counter() - begin)

    return call


def main() -> None:
    """Train with a timer as one more callback."""
    build_callbacks = train.build_callbacks
    train.build_callbacks = lambda nodes, run: [*build_callbacks(nodes, run), HookTimer()]
    run_cli("train", train.main)


if __name__ == "__main__":
    main()
