"""Data over HTTP: files with retries, and rows of Hugging Face datasets at a pinned revision."""

import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from gzip import BadGzipFile
from http.client import HTTPException, HTTPResponse
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import aiohttp
import datasets
from datasets.utils.file_utils import CONNECTION_ERRORS_TO_RETRY
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from biomamba.data.document import Reject
from biomamba.data.rows import RawShard, Row
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_number, check_whole

# -------------------------------------------------------------------------------------------------
# Fetch over HTTP with patience: faults that pass are retried, others are named at once.
#
# A file that breaks off is continued where it stopped, if the server can; a server that hangs
# counts as broken off after a while. Nothing is checked here: the caller knows what the bytes
# should be.
# -------------------------------------------------------------------------------------------------

_LOG = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 18
_MAX_PAUSE_SECONDS = 120.0
_TRANSIENT = (408, 425, 429)
_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416
T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long to bear with a server.

    Attributes:
        attempts: Failures in a row, without a new byte in between, that end the stage.
        first_pause_seconds: Pause after the first failure; it doubles up to two minutes, and a
            longer one that the server asks for is kept up to the same bound.
        timeout_seconds: Silence of the server that counts as a failure.
    """

    attempts: int = 6
    first_pause_seconds: float = 2.0
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        check_whole("attempts", self.attempts)
        check_number("first_pause_seconds", self.first_pause_seconds, at_least=0)
        check_number("timeout_seconds", self.timeout_seconds, above=0)

    def pause_seconds(self, num_failures: int, asked_seconds: float = 0.0) -> float:
        """Return the pause after so many failures in a row."""
        pause_seconds = self.first_pause_seconds * 2.0 ** (num_failures - 1)
        return min(max(pause_seconds, asked_seconds), _MAX_PAUSE_SECONDS)


def is_transient(status: int) -> bool:
    """Say whether a server that answers this may answer otherwise later."""
    return status >= 500 or status in _TRANSIENT


def fetch_bytes(url: str, patience: Patience) -> bytes:
    """Return a small document.

    Raises:
        DataError: If the server refuses it or keeps failing.
    """

    def attempt() -> bytes:
        with _request(url, 0, patience) as response:
            num_expected = response.length
            content = response.read()
            _check_length(len(content), num_expected)
            return content

    return _retried(url, patience, attempt, lambda: 0)


def fetch_file(url: str, partial: Path, patience: Patience) -> None:
    """Complete a partial file, or start it if it is absent.

    Raises:
        DataError: If the server refuses it or keeps failing, or the disk is full. What has
            arrived stays in the partial file.
    """

    def size() -> int:
        return partial.stat().st_size if partial.exists() else 0

    def attempt() -> None:
        offset = size()
        try:
            response = _request(url, offset, patience)
        except HTTPError as error:
            if not (offset and error.code == _RANGE_NOT_SATISFIABLE):
                raise
            error.close()  # nothing is left to read; whether that is all, the caller checks
            return
        with response:
            is_continued = response.status == _PARTIAL_CONTENT and _starts_at(response, offset)
            num_expected = response.length
            _check_length(_save(response, partial, is_continued=is_continued), num_expected)

    _retried(url, patience, attempt, size)


def _request(url: str, offset: int, patience: Patience) -> HTTPResponse:
    headers = {"User-Agent": "biomamba"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    response = urlopen(Request(url, headers=headers), timeout=patience.timeout_seconds)
    assert isinstance(response, HTTPResponse)
    return response


def _starts_at(response: HTTPResponse, offset: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _check_length(num_received: int, num_expected: int | None) -> None:
    # read(amount) gives no error where a connection ends early.
    if num_expected is not None and num_received != num_expected:
        raise ConnectionError(f"the connection ended after {num_received} of {num_expected} bytes")


def _save(response: HTTPResponse, partial: Path, *, is_continued: bool) -> int:
    num_received = 0
    with _opened(partial, "ab" if is_continued else "wb") as file:
        while block := response.read(_BLOCK_BYTES):
            with _disk(partial):
                num_received += file.write(block)
        with _disk(partial):
            file.flush()
            os.fsync(file.fileno())
    return num_received


def _opened(partial: Path, mode: str) -> IO[bytes]:
    with _disk(partial):
        file: IO[bytes] = partial.open(mode)
        return file


@contextmanager
def _disk(partial: Path) -> Iterator[None]:
    """Tell faults of the disk, which no retry fixes, from those of the network."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write {partial} ({error.strerror}); make room or fix the rights and run again"
        ) from error


def _retried(url: str, patience: Patience, attempt: Callable[[], T], size: Callable[[], int]) -> T:
    num_failures, largest = 0, size()
    while True:
        try:
            return attempt()
        except (OSError, HTTPException) as error:
            problem, asked_seconds = _judge(url, error)
        num_failures = 1 if size() > largest else num_failures + 1
        largest = max(largest, size())
        if num_failures >= patience.attempts:
            raise DataError(
                f"cannot fetch {url} ({problem}, {num_failures} failures in a row); what has "
                "arrived stays, run again later to continue"
            )
        _LOG.warning("%s: %s; trying again", url, problem)
        time.sleep(patience.pause_seconds(num_failures, asked_seconds))


def _judge(url: str, error: Exception) -> tuple[str, float]:
    """Return the problem and the pause the server asks for, or raise if no retry can help."""
    if not isinstance(error, HTTPError):
        return f"{type(error).__name__}: {error}", 0.0
    with error:
        problem = f"{error.code} {error.reason}"
        if not is_transient(error.code):
            raise DataError(
                f"{url} answers {problem}; check the address and your access to it"
            ) from error
        asked = error.headers.get("Retry-After") or ""
    return problem, float(asked) if asked.isascii() and asked.isdigit() else 0.0


# -------------------------------------------------------------------------------------------------
# What a failure of a hub stream means: it passes, or no further attempt can help.
#
# The errors of `datasets` say little by themselves: a server that answers 503 while the files are
# resolved surfaces as FileNotFoundError without a cause, and one that answers 404 in mid-stream as
# ConnectionError (measured with datasets 5.2). So the status is looked up along the chain of
# causes, and where there is none, the server is asked.
# -------------------------------------------------------------------------------------------------

_LOGIN = (401, 403)
# Every error that a stream of `datasets` is known to end with; anything else is a defect.
STREAM_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    *CONNECTION_ERRORS_TO_RETRY,
    aiohttp.ClientError,
    EOFError,
    ValueError,
    KeyError,
    OverflowError,
    zlib.error,
    datasets.exceptions.DatasetsError,
)
# What is found in the bytes is there again at the next attempt.
_CONTENT = (EOFError, ValueError, KeyError, OverflowError, zlib.error, BadGzipFile)


class Faults:
    """Bear with the failures of one stream: pause after each, or give up with a DataError.

    Args:
        name: The stream, for messages.
        patience: How often and how long.
        urls: Addresses to ask for the status where an error has none.
        dataset: Id on the hub, which is asked instead; None with urls or for files on disk.
        revision: Commit on the hub.
    """

    def __init__(
        self,
        name: str,
        patience: Patience,
        *,
        urls: Sequence[str] = (),
        dataset: str | None = None,
        revision: str | None = None,
    ) -> None:
        self._name = name
        self._patience = patience
        self._urls = list(urls)
        self._dataset = dataset
        self._revision = revision
        self._num_failures = 0

    def passed(self) -> None:
        """Note that something has arrived: failures count in a row."""
        self._num_failures = 0

    def failed(self, error: Exception) -> None:
        """Pause before another attempt.

        Raises:
            DataError: If no attempt can help, or too many failed in a row.
        """
        problem = self._passing_problem(error)
        self._num_failures += 1
        if self._num_failures >= self._patience.attempts:
            raise DataError(
                f"cannot read {self._name} ({problem}, {self._num_failures} failures in a row); "
                "run again later: what is committed or checkpointed stays"
            ) from error
        _LOG.warning("%s: %s; trying again", self._name, problem)
        time.sleep(self._patience.pause_seconds(self._num_failures))

    def _passing_problem(self, error: Exception) -> str:
        """Name a problem that passes; raise DataError for one that stays."""
        status = _status(error)
        if status is None and isinstance(error, FileNotFoundError):
            status = self._asked_status()
        if status is not None:
            if is_transient(status):
                return f"status {status}"
            raise DataError(f"{self._name} answers {status}; {_advice(status)}") from error
        if any(isinstance(link, OfflineModeIsEnabled) for link in _chain(error)):
            raise DataError(
                f"{self._name} cannot be reached: HF_HUB_OFFLINE is set; unset it"
            ) from error
        problem = f"{type(error).__name__}: {error}"
        is_missing = isinstance(error, FileNotFoundError) and not (self._dataset or self._urls)
        if is_missing or _stays(error):
            raise DataError(
                f"{self._name} does not hold what the settings say ({problem}); check dataset, "
                "revision, files and columns"
            ) from error
        return problem

    def _asked_status(self) -> int | None:
        """Ask the server for the status of the files, or of the dataset; None if it is well."""
        if self._dataset is None:
            asked = (_status_of_url(url, self._patience.timeout_seconds) for url in self._urls)
            return next((status for status in asked if status is not None), None)
        try:
            HfApi().dataset_info(
                self._dataset, revision=self._revision, timeout=self._patience.timeout_seconds
            )
        except STREAM_ERRORS as error:
            return _status(error)
        return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """Find the HTTP status of an error of aiohttp or of the hub along its causes."""
    for link in _chain(error):
        for status in (
            getattr(link, "status", None),
            getattr(getattr(link, "response", None), "status_code", None),
        ):
            if isinstance(status, int) and status >= 400:
                return status
    return None


def _status_of_url(url: str, timeout_seconds: float) -> int | None:
    request = Request(url, headers={"User-Agent": "biomamba", "Range": "bytes=0-0"})
    try:
        with urlopen(request, timeout=timeout_seconds):
            return None
    except HTTPError as error:
        with error:
            return error.code
    except (OSError, HTTPException):
        return None


def _stays(error: Exception) -> bool:
    # Arrow reports damaged content as a bare OSError; those of the network have a number.
    is_bare = type(error) is OSError and error.errno is None
    is_local = isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError)
    is_unknown = isinstance(error, datasets.exceptions.DatasetNotFoundError)
    return is_bare or is_local or is_unknown or isinstance(error, _CONTENT)


def _advice(status: int) -> str:
    if status in _LOGIN:
        return "accept the terms of the dataset, then log in with `hf auth login` or set HF_TOKEN"
    return "check the name, the revision and the files"


# -------------------------------------------------------------------------------------------------
# Rows streamed from a Hugging Face dataset at a pinned revision, one raw shard per hub file.
#
# A stream that breaks is opened again and skipped to the row where it broke, so that a fault that
# passes changes no row. A fault that stays is named at once (see above).
# -------------------------------------------------------------------------------------------------

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ROWS_AT_ONCE = 64
# `datasets` would repeat a read of a compressed file that failed half-way: bytes get lost and the
# rows after them are broken (measured with datasets 5.2). So it may not repeat anything.
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
