"""Who may write in a folder, also over processes; a killed holder leaves no lock behind."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from biomamba.runtime.errors import DataError

LOCK_NAME = ".lock"


@contextmanager
def folder_lock(
    folder: Path,
    activity: str,
    *,
    name: str = LOCK_NAME,
    is_shared: bool = False,
    is_patient: bool = False,
) -> Iterator[None]:
    """Hold a lock of a folder, made if absent.

    Args:
        folder: The folder.
        activity: What another holder is doing, for the message.
        name: Which lock of the folder.
        is_shared: Many may hold it at once, but none who wants it alone.
        is_patient: Wait for the others to end instead of refusing.

    Raises:
        DataError: If another process holds the lock, or the folder cannot be written.
    """
    operation = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("w")
    except OSError as error:
        raise DataError(
            f"cannot write in {folder} ({error.strerror}); mend the rights or choose another folder"
        ) from error
    with file:
        try:
            fcntl.flock(file, operation if is_patient else operation | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"another process is {activity} {folder}; wait until it has ended"
            ) from error
        yield
