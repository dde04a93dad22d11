"""What a failure of a hub stream means: it passes, or no further attempt can help.

The errors of `datasets` say little by themselves: a server that answers 503 while the files are
resolved surfaces as FileNotFoundError without a cause, and one that answers 404 in mid-stream as
ConnectionError (measured with datasets 5.2). So the status is looked up along the chain of causes,
and where there is none, the server is asked.
"""

import logging
import time
import zlib
from collections.abc import Iterator, Sequence
from gzip import BadGzipFile
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import aiohttp
import datasets
from datasets.utils.file_utils import CONNECTION_ERRORS_TO_RETRY
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from biomamba.data.http_fetch import Patience, is_transient
from biomamba.runtime.errors import DataError

_LOG = logging.getLogger(__name__)
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
