"""One process at a time runs a chain; what it started counts as long as it lives."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from biomamba.runtime.errors import ConfigError

LOCK_NAME = ".chain.lock"


@contextmanager
def chain_lock(folder: Path, patience_seconds: float = 10.0) -> Iterator[int]:
    """Hold the folder of a chain, and yield the descriptor that holds it.

    A process that has the descriptor too holds the folder as well. Those of a chain that was
    killed end soon, so they are waited for.

    Raises:
        ConfigError: Another process holds the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_NAME).open("w")
    except OSError as error:
        raise ConfigError(
            f"cannot write in {folder} ({error.strerror}): mend the rights or set paths.run_dir"
        ) from error
    with file:
        end = time.monotonic() + patience_seconds
        while not _is_taken(file.fileno()):
            if time.monotonic() >= end:
                raise ConfigError(
                    f"another process runs the chain in {folder}: wait until it has ended, or set "
                    "paths.run_dir to another folder"
                )
            time.sleep(0.2)
        yield file.fileno()


def _is_taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
