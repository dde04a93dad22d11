"""Show how the answering comes along: items, rate and remaining time; on stderr."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from biomamba.runtime.ranks import is_rank_zero


class AnswerProgress:
    """One line per task and model, on rank zero only; never shows an item."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            disable=not is_rank_zero(),
        )

    def __enter__(self) -> "AnswerProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def line(self, name: str, num_items: int, num_done: int) -> "Line":
        """Add a line; `num_done` of its items were answered in an earlier run."""
        return Line(
            self._progress,
            self._progress.add_task(name, total=num_items, completed=num_done, rate=""),
        )


class Line:
    """One line of the progress."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self._begin, self._num_new = time.perf_counter(), 0

    def advance(self, num_items: int) -> None:
        """Count items that were just answered."""
        self._num_new += num_items
        rate = self._num_new / (time.perf_counter() - self._begin)
        self._progress.update(self._task, advance=num_items, rate=f"{rate:.2f} items/s")
