"""Write files that are either complete or absent, and folders that only their owner may read."""

import json
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from biomamba.runtime.errors import DataError

_OTHERS = 0o077  # the rights of the group and of everybody
# Of this module and of the writers of checkpoints, tensors and ledgers: .run.json.0badcafe.tmp
_TEMPORARY_NAME = re.compile(r"\.(.+\.)?[0-9a-f]{8}\.tmp(\.safetensors)?")


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file by `content`: a temporary file beside it is synced, then renamed over it.

    Missing parent folders are made. After a failure the old file stands and no temporary file
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
