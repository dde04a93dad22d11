"""One run at a time in a folder; a killed run leaves no lock."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from biomamba.runtime.errors import ConfigError
from biomamba.runtime.ranks import is_rank_zero

LOCK_NAME = ".run.lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder of a run on rank zero.

    A record lock, which forked children do not inherit: the loader's workers outlive a killed run
    for some seconds, and must not keep the next one out.

    Raises:
        ConfigError: If another run holds the folder, or it cannot be written.
    """
    if not is_rank_zero():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_NAME).open("w")
    except OSError as error:
        raise ConfigError(
            f"cannot write in {folder} ({error.strerror}): mend the rights or choose another run_id"
        ) from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"another process trains in {folder}: wait until it has ended, or choose another "
                "run_id"
            ) from error
        yield
