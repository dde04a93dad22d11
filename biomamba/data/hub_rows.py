"""Rows streamed from a Hugging Face dataset at a pinned revision, one raw shard per hub file.

Only the prepare stage reads the hub: a bad file or a lost connection then costs a rerun that
continues at the last committed shard, and never an hour of a GPU.
"""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from biomamba.data.document import Reject
from biomamba.data.rows import RawShard, Row
from biomamba.runtime.errors import ConfigError, DataError

_LOG = logging.getLogger(__name__)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class HubRows:
    """Rows of a hub dataset, streamed.

    Attributes:
        dataset: Hub id, or the name of a file format (`json`, `parquet`) with `data_files`.
        name: Configuration of the dataset; None if it has only one.
        split: Split on the hub; the splits of the store are made here, by key.
        revision: Commit, 40 hex digits; None only with `data_files`.
        columns: The columns that are read; all others are never decoded.
        max_rows: Only the first rows of the stream, as one single raw shard; None for all rows,
            one raw shard per hub file.
        data_files: Explicit files, for example a mirror.
    """

    dataset: str
    split: str
    columns: list[str]
    name: str | None = None
    revision: str | None = None
    max_rows: int | None = None
    data_files: list[str] | None = None

    def __post_init__(self) -> None:
        if self.data_files is None and not _COMMIT.fullmatch(self.revision or ""):
            raise ConfigError(
                f"revision of {self.dataset} is {self.revision!r}; pin a commit (40 hex digits), "
                "or the same settings would give other data tomorrow"
            )
        if not self.columns:
            raise ConfigError(f"columns of {self.dataset} is empty; name the columns to read")
        if self.max_rows is not None and self.max_rows < 1:
            raise ConfigError(f"max_rows of {self.dataset} is {self.max_rows}; use 1 or more")

    def shards(self) -> Sequence[RawShard]:
        """Return the raw shards of the stream.

        Raises:
            DataError: If the dataset cannot be resolved after several attempts.
        """
        stream = self._stream()
        if self.max_rows is not None:
            return [HubShard("rows-00000", self._identity(), stream.take(self.max_rows))]
        count = stream.num_shards
        return [
            HubShard(
                f"rows-{index:05d}-of-{count:05d}",
                f"{self._identity()}:{index}/{count}",
                stream.shard(num_shards=count, index=index),
            )
            for index in range(count)
        ]

    def settings(self) -> dict[str, Any]:
        """Return the pinned dataset and the row limit."""
        return {"dataset": self._identity(), "max_rows": self.max_rows}

    def _identity(self) -> str:
        return f"{self.dataset}@{self.revision}:{self.name}:{self.split}"

    def _stream(self) -> Any:
        # A 5xx while the file list is resolved surfaces as FileNotFoundError without any retry
        # (measured with datasets 5.2), hence the loop here.
        pause_seconds = _FIRST_PAUSE_SECONDS
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._load()
            except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
                if attempt == _ATTEMPTS or isinstance(error, ValueError):
                    raise DataError(f"cannot open {self._identity()}: {error}") from error
                _LOG.warning("attempt %d to open %s: %s", attempt, self._identity(), error)
                time.sleep(pause_seconds)
                pause_seconds *= 2
        raise AssertionError("unreachable")

    def _load(self) -> Any:
        stream = datasets.load_dataset(
            self.dataset,
            name=self.name,
            data_files=self.data_files,
            split=self.split,
            revision=self.revision,
            streaming=True,
        )
        return stream.select_columns(self.columns)


@dataclass(frozen=True)
class HubShard:
    """One file of a hub dataset, or the head of its stream."""

    name: str
    identity: str
    stream: Any

    def fingerprint(self) -> str:
        """Name the pinned dataset and the position of this shard in it."""
        return self.identity

    def rows(self) -> Iterator[Row | Reject]:
        """Stream the rows.

        Raises:
            DataError: If the stream breaks; the committed shards stay.
        """
        try:
            yield from self.stream
        except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
            raise DataError(
                f"the stream of {self.identity} broke ({type(error).__name__}: {error}); "
                "run prepare again to continue after the last committed shard"
            ) from error
