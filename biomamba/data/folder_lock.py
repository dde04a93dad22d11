"""One writer at a time in a folder, also over processes; a killed writer leaves no lock behind."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from biomamba.runtime.errors import DataError

LOCK_NAME = ".lock"


@contextmanager
def folder_lock(folder: Path, activity: str) -> Iterator[None]:
    """Hold the lock of a folder, made if absent; `activity` is what another holder is doing.

    Raises:
        DataError: If another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"another process is {activity} {folder}; wait until it has ended"
            ) from error
        yield
