"""A file that is written front to back, hashed on the way, and either whole or absent."""

import os
import secrets
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from biomamba.data.manifest import FileRecord
from biomamba.data.sealed import TEMPORARY_SUFFIX


class HashedFile:
    """Write arrays under a temporary name of this writer alone; `commit` gives the file its name.

    Args:
        path: The file to be; what stands there stays until `commit`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        name = f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
        self._temporary = path.with_name(name)
        self._stream = self._temporary.open("xb")
        self._digest = sha256()
        self._size_bytes = 0

    def write(self, array: NDArray[Any]) -> None:
        """Append the bytes of an array."""
        content = array.tobytes()
        self._stream.write(content)
        self._digest.update(content)
        self._size_bytes += len(content)

    def commit(self) -> FileRecord:
        """Make the content durable, put the file in place and return its record.

        The new name is durable once the folder is synced, which the caller does for all its files.
        """
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._temporary.replace(self._path)
        return FileRecord(self._size_bytes, self._digest.hexdigest())

    def discard(self) -> None:
        """Remove the temporary file, if it is still there."""
        with suppress(OSError):  # a full disk refuses the last bytes here once more
            self._stream.close()
        self._temporary.unlink(missing_ok=True)
