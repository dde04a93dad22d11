"""Rows streamed from a Hugging Face dataset at a pinned revision, one raw shard per hub file.

A stream that breaks is opened again and skipped to the row where it broke, so that a fault that
passes changes no row. A fault that stays is named at once (see hub_faults.py).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import aiohttp
import datasets

from biomamba.data.document import Reject
from biomamba.data.http_fetch import Patience
from biomamba.data.hub_faults import STREAM_ERRORS, Faults
from biomamba.data.rows import RawShard, Row
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_whole

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ROWS_AT_ONCE = 64
# `datasets` would repeat a read of a compressed file that failed half-way: bytes get lost and the
# rows behind them are broken (measured with datasets 5.2). So it may not repeat anything.
datasets.config.STREAMING_READ_MAX_RETRIES = 1
datasets.config.STREAMING_OPEN_MAX_RETRIES = 1
datasets.config.STREAMING_READ_RETRY_INTERVAL = 0
datasets.config.STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL = 0
datasets.config.STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL = 0
datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 0


@dataclass(frozen=True)
class HubRows:
    """Rows of a hub dataset, streamed.

    Attributes:
        dataset: Hub id, or the name of a file format (`json`, `parquet`) with `data_files`.
        name: Configuration of the dataset; None if it has only one.
        split: Split on the hub; the splits of the store are made here, by key.
        revision: Commit, 40 hex digits; None only with `data_files`.
        columns: The columns that are read; all others are never decoded.
        max_rows: Only so many rows: the first of the stream as one single raw shard or, with
            `max_shards`, equally many of each shard. None for all rows.
        max_shards: Only the first hub files. None for all files.
        data_files: Explicit files, for example a mirror.
        patience: How long to bear with a server that fails.
    """

    dataset: str
    split: str
    columns: list[str]
    name: str | None = None
    revision: str | None = None
    max_rows: int | None = None
    max_shards: int | None = None
    data_files: list[str] | None = None
    patience: Patience = field(default_factory=lambda: Patience(attempts=10))

    def __post_init__(self) -> None:
        if self.data_files is None and not _COMMIT.fullmatch(self.revision or ""):
            raise ConfigError(
                f"revision of {self.dataset} is {self.revision!r}; pin a commit (40 hex digits), "
                "or the same settings would give other data tomorrow"
            )
        if not self.columns:
            raise ConfigError(f"columns of {self.dataset} is empty; name the columns to read")
        for name, value in (("max_rows", self.max_rows), ("max_shards", self.max_shards)):
            check_whole(f"{name} of {self.dataset}", value, optional=True)
        if self.max_rows and self.max_shards and self.max_rows % self.max_shards:
            raise ConfigError(
                f"max_rows = {self.max_rows} of {self.dataset} is no multiple of max_shards = "
                f"{self.max_shards}; every shard gives equally many rows"
            )

    def shards(self) -> Sequence[RawShard]:
        """Return the raw shards of the stream.

        Raises:
            DataError: If the dataset cannot be resolved, or has fewer files than max_shards.
        """
        stream = self._stream()
        if self.max_rows is not None and self.max_shards is None:
            return [self._shard("rows-00000", self._identity(), stream.take(self.max_rows))]
        count = stream.num_shards
        if self.max_shards is not None and self.max_shards > count:
            raise DataError(
                f"{self._identity()} has {count} files, fewer than max_shards = {self.max_shards}"
            )
        return [self._hub_file(stream, index, count) for index in range(self.max_shards or count)]

    def settings(self) -> dict[str, Any]:
        """Return the pinned dataset and the limits."""
        limits = {"max_rows": self.max_rows, "max_shards": self.max_shards}
        return {"dataset": self._identity(), **limits}

    def _hub_file(self, stream: Any, index: int, count: int) -> "HubShard":
        name, identity = f"rows-{index:05d}-of-{count:05d}", f"{self._identity()}:{index}/{count}"
        part = stream.shard(num_shards=count, index=index)
        if self.max_rows and self.max_shards:
            head = self.max_rows // self.max_shards
            return self._shard(name, f"{identity}:{head}", part.take(head))
        return self._shard(name, identity, part)

    def _shard(self, name: str, identity: str, stream: Any) -> "HubShard":
        return HubShard(name, identity, stream, self)

    def _identity(self) -> str:
        files = "" if self.data_files is None else f":{','.join(self.data_files)}"
        return f"{self.dataset}@{self.revision}:{self.name}:{self.split}{files}"

    def faults(self, name: str) -> Faults:
        """Return a judge of the failures of one of the streams."""
        if self.data_files is None:
            return Faults(name, self.patience, dataset=self.dataset, revision=self.revision)
        urls = [file for file in self.data_files if file.startswith(("http://", "https://"))]
        return Faults(name, self.patience, urls=urls)

    def _stream(self) -> Any:
        faults = self.faults(self._identity())
        while True:
            try:
                with self._explained():
                    return self._load()
            except STREAM_ERRORS as error:
                faults.failed(error)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what `datasets` raises for unusable content into an error that says what it is."""
        try:
            yield
        except StopIteration as error:
            raise DataError(
                f"{self._identity()} holds no rows; check the files and the split"
            ) from error
        except TypeError as error:
            if "cast" not in str(error):  # Arrow: Couldn't cast array of type string to null
                raise
            raise DataError(
                f"{self._identity()}: a column has other types in other files, or only nulls in "
                f"the first one ({error}); write the files with one schema, or leave out the "
                "file of nulls"
            ) from error
        except ValueError as error:
            if "BatchSize must be greater than 0" not in str(error):  # of Arrow, wrapped or not
                raise
            raise DataError(
                f"{self._identity()}: a Parquet file holds no rows; leave it out"
            ) from error
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            raise DataError(
                f"{self._identity()} needs a loading script, and no code of others is run; use a "
                "revision with Parquet or JSON files (often refs/convert/parquet)"
            ) from error

    def _load(self) -> Any:
        seconds = self.patience.timeout_seconds
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        options = {"client_kwargs": {"timeout": timeout}}
        stream = datasets.load_dataset(
            self.dataset,
            name=self.name,
            data_files=self.data_files,
            split=self.split,
            revision=self.revision,
            streaming=True,
            storage_options={"http": options, "https": options} if self.data_files else None,
        )
        return stream.select_columns(self.columns)


@dataclass(frozen=True)
class HubShard:
    """One file of a hub dataset, or the head of one or of the stream."""

    name: str
    identity: str
    stream: Any
    source: HubRows

    def fingerprint(self) -> str:
        """Name the pinned dataset and the position of this shard in it."""
        return self.identity

    def rows(self) -> Iterator[Row | Reject]:
        """Stream the rows.

        Raises:
            DataError: If the stream breaks for good.
        """
        faults = self.source.faults(self.identity)
        num_rows = 0
        while True:
            try:
                # The types of a file are known when its first row is read.
                rows = islice(self._whole(), num_rows, None)
                while (row := self._next(rows)) is not None:
                    num_rows += 1
                    faults.passed()
                    yield row
            except STREAM_ERRORS as error:
                faults.failed(error)
            else:
                return

    def _next(self, rows: Iterator[Row]) -> Row | None:
        with self.source._explained():
            return next(rows, None)

    def _whole(self) -> Iterator[Row]:
        # Iterating over the stream itself would, in a worker process of a torch loader, give only
        # the shards that `datasets` assigns to that worker: often none.
        for batch in self.stream.iter(batch_size=_ROWS_AT_ONCE):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))
