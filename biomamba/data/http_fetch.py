"""Fetch over HTTP with patience: faults that pass are retried, others are named at once.

A file that breaks off is continued where it stopped, if the server can; a server that hangs counts
as broken off after a while. Nothing is checked here: the caller knows what the bytes should be.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from biomamba.runtime.errors import DataError
from biomamba.runtime.numbers import check_number, check_whole

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
    """Complete a partial file, or begin it if it is absent.

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
    """Tell faults of the disk, which no retry mends, from those of the network."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write {partial} ({error.strerror}); make room or mend the rights and run again"
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
