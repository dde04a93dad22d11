"""Show how the prepare stage comes along: rows per second, shards, remaining time; on stderr."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from biomamba.data.rows import RawShard

_SECONDS_BETWEEN_LOG_LINES = 60


class PrepareProgress:
    """Progress lines, one per corpus and phase."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[shards]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )

    def __enter__(self) -> "PrepareProgress":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def phase(self, name: str, sizes: Mapping[int, float]) -> "Phase":
        """Add a line for shards of these sizes, by number."""
        return Phase(self._progress, name, sizes)


class Phase:
    """One line: shards of given sizes, done in any order.

    Args:
        progress: Where the line is.
        name: What the line begins with.
        sizes: Of the shards by number, in one unit.
    """

    def __init__(self, progress: Progress, name: str, sizes: Mapping[int, float]) -> None:
        self._progress = progress
        self._name = name
        self._task = progress.add_task(name, total=sum(sizes.values()), shards="", rate="")
        self._sizes = sizes
        self._num_rows = 0
        self._num_shards = 0
        self._started: set[int] = set()
        self._work = 0.0
        self._left = sum(sizes.values())
        self._begin: float | None = None
        self._told = time.monotonic()

    def rows(self, number: int, num_rows: int) -> None:
        """Count rows of shard `number`."""
        if self._begin is None:  # lines of later corpora stand still until their turn comes
            self._begin = time.monotonic()
        self._started.add(number)
        self._num_rows += num_rows
        self._show()

    def shard(self, number: int) -> None:
        """Count shard `number` as done."""
        size = self._sizes[number]
        self._num_shards += 1
        self._left -= size
        if number in self._started:  # what was found done tells nothing about the speed
            self._work += size
        self._progress.advance(self._task, size)
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        seconds = 0.0 if self._begin is None else now - self._begin
        parts = [f"{self._num_rows / seconds:,.0f} rows/s"] if self._num_rows and seconds else []
        if self._work and self._left > 0:
            parts.append(f"{_duration(seconds * self._left / self._work)} left")
        shards, rate = f"{self._num_shards}/{len(self._sizes)} shards", " ".join(parts)
        self._progress.update(self._task, shards=shards, rate=rate)
        # A log of a batch job shows no moving line; it gets one from time to time.
        console = self._progress.console
        if not console.is_terminal and now - self._told >= _SECONDS_BETWEEN_LOG_LINES:
            self._told = now
            console.print(self._name, shards, rate, highlight=False)


def shard_sizes(shards: Sequence[RawShard]) -> list[float]:
    """Return the bytes of the raw files; 1 for each shard where one of them is no file."""
    paths = [getattr(shard, "path", None) for shard in shards]
    files = [path for path in paths if isinstance(path, Path) and path.is_file()]
    if len(files) < len(paths):
        return [1.0] * len(paths)
    return [float(path.stat().st_size) for path in files]


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
