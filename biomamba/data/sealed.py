"""JSON records that notice any changed byte, and the hash of a file."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from biomamba.runtime.atomic import sync_folder, write_bytes
from biomamba.runtime.errors import DataError
from biomamba.runtime.input_files import loads, read_text

TEMPORARY_SUFFIX = ".tmp"  # also of the temporary files of runtime.atomic
_SEAL = "sha256"
_HASH_BLOCK_BYTES = 1 << 20


def sha256_of(path: Path, report: Callable[[int], object] | None = None) -> str:
    """Hash the content of a file; `report` is told the bytes of every block."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
            if report is not None:
                report(len(block))
    return digest.hexdigest()


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a flushed temporary file its name and make that durable."""
    temporary.replace(path)
    sync_folder(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is either whole or absent.

    Raises:
        DataError: If the disk is full or the folder cannot be written.
    """
    try:
        write_bytes(path, content)
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({error.strerror}); make room or mend the rights, and run again"
        ) from error


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object together with the hash of its own canonical form."""
    write_file(path, _sealed_bytes(content))


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a JSON object written by `write_sealed`.

    Raises:
        DataError: If the file is missing or not byte for byte what was written.
    """
    try:
        stored = read_text(path)
    except FileNotFoundError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except DataError as error:
        # A changed bit often makes a byte that no UTF-8 text has.
        if isinstance(error.__cause__, UnicodeDecodeError):
            raise _damaged(path) from error
        raise
    content = _unseal(stored.encode())
    if content is None:
        raise _damaged(path)
    return content


def _damaged(path: Path) -> DataError:
    return DataError(f"{path} is damaged: its content does not match its checksum")


def _unseal(stored: bytes) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = loads(stored)
        content.pop(_SEAL)
        return content if _sealed_bytes(content) == stored else None
    except (ValueError, AttributeError, KeyError, TypeError):
        return None


def _sealed_bytes(content: dict[str, Any]) -> bytes:
    seal = sha256(_dump(content).encode()).hexdigest()
    return _dump({**content, _SEAL: seal}).encode()


def _dump(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
