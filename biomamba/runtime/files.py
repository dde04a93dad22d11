"""Atomic and private files, checksummed JSON records, and locks over folders."""

import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from biomamba.runtime.errors import DataError
from biomamba.runtime.input_files import loads, read_text

# -------------------------------------------------------------------------------------------------
# Write files that are either complete or absent, and folders that only their owner may read.
# -------------------------------------------------------------------------------------------------

_OTHERS = 0o077  # the rights of the group and of everybody
# Of this module and of the writers of checkpoints, tensors and ledgers: .run.json.0badcafe.tmp
# The second form is that of the library safetensors, which renames a file of its own: .tmpDHn7mo
_TEMPORARY_NAME = re.compile(r"\.(.+\.)?[0-9a-f]{8}\.tmp(\.safetensors)?|\.tmp[A-Za-z0-9]{6}")


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file by `content`: a temporary file beside it is synced, then renamed over it.

    Missing parent folders are made. After a failure the old file stays and no temporary file
    stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    # Opened by hand, not with tempfile: the file shall have the permissions of any new file.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """Replace the file by UTF-8 text, see `write_bytes`."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Replace the file by indented JSON with sorted keys; NaN and infinity are refused.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, f"{text}\n")


def write_privately() -> None:
    """Let this process and those that it starts make files and folders for their owner alone."""
    os.umask(_OTHERS)


def make_private(folder: Path, *, is_recursive: bool = True) -> None:
    """Take the rights of others from a folder, made if absent, and from what is in it already.

    Links are not followed. A folder that holds the current one, or is it, is left as it is: it is
    not a folder of results.

    Raises:
        DataError: The folder cannot be made, or is another user's.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o777 & ~_OTHERS, exist_ok=True)
        if Path.cwd().is_relative_to(folder.resolve()):
            return
        for path in (folder, *(folder.rglob("*") if is_recursive else ())):
            with suppress(FileNotFoundError):  # a temporary file of another process
                mode = path.lstat().st_mode
                if not stat.S_ISLNK(mode) and mode & _OTHERS:
                    path.chmod(stat.S_IMODE(mode) & ~_OTHERS)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} cannot be made readable by you alone ({error.strerror}), "
            "as restricted data demands: choose a folder of your own"
        ) from error


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files that a killed writer left in a folder, not in those below it.

    Nobody else may write there. A folder that does not exist has none.
    """
    for path in folder.glob(".*"):
        if _TEMPORARY_NAME.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the renames inside a folder durable; does nothing where folders cannot be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -------------------------------------------------------------------------------------------------
# JSON records that notice any changed byte, and the hash of a file.
# -------------------------------------------------------------------------------------------------

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
            f"cannot write {path} ({error.strerror}); make room or fix the rights, and run again"
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


# -------------------------------------------------------------------------------------------------
# Who may write in a folder, also over processes; a killed holder leaves no lock behind.
# -------------------------------------------------------------------------------------------------

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
            f"cannot write in {folder} ({error.strerror}); fix the rights or choose another folder"
        ) from error
    with file:
        try:
            fcntl.flock(file, operation if is_patient else operation | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"another process is {activity} {folder}; wait until it has ended"
            ) from error
        yield
