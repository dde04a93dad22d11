"""Errors that a user can cause and fix.

Each message names the key or file, what was found, what is allowed and what to do. The command
line programs print it without a traceback and exit with code 2; anything else is a defect and
keeps its traceback.
"""

import errno
import importlib
import re
from types import ModuleType


class BioMambaError(Exception):
    """Base of all errors that the user can fix."""


class ConfigError(BioMambaError, ValueError):
    """The composed configuration cannot build a run."""


class DataError(BioMambaError):
    """A corpus, tokenizer or token store is missing, damaged or not the expected one."""


class CheckpointError(BioMambaError):
    """A model checkpoint is missing, incomplete or of another model."""


class MissingDependencyError(BioMambaError):
    """An optional package is needed and not installed."""


class TrainingError(BioMambaError):
    """A run cannot continue without damage to its result."""


class FileError(BioMambaError):
    """The operating system refused a file or folder."""


# How an atomic write names the file until it is complete.
_TEMPORARY = re.compile(r"\.([^/]+)\.[0-9a-f]+\.tmp$")
_PATH = "name another path"
_REMEDIES = {
    errno.EACCES: "ask for the rights, or name another path",
    errno.EPERM: "ask for the rights, or name another path",
    errno.EROFS: _PATH,
    errno.ENOENT: "it, or the folder that should hold it, is not there (or a link leads nowhere)",
    errno.ENOTDIR: "a file is where a folder is needed; name a folder",
    errno.EISDIR: "a folder is where a file is needed; name a file",
    errno.EEXIST: "a file or a link that leads nowhere is where a folder is needed",
    errno.ENOTEMPTY: _PATH,
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ELOOP: "a link leads to itself; name another path",
    errno.ENOSPC: "make room, or name a path on another file system",
    errno.EDQUOT: "your quota is used up: make room, or name a path on another file system",
    errno.EFBIG: "name a path on another file system",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "the file system or disk is at fault",
    errno.ESTALE: "the file system is at fault; start again",
    errno.ETXTBSY: _PATH,
    errno.EBUSY: _PATH,
}


def as_file_error(error: OSError) -> FileError | None:
    """Return what a refusal of the operating system means to the user; None for other errors.

    Connections, processes and devices have errors of their own; libraries raise OSError without a
    number for anything.
    """
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    names = [
        _TEMPORARY.sub(r"\1", str(name))
        for name in (error.filename, error.filename2)
        if name is not None
    ]
    place = " -> ".join(dict.fromkeys(names)) or "a file"
    return FileError(f"{place}: {error.strerror}; {remedy}")


# -------------------------------------------------------------------------------------------------
# Import a package that only some runs need, or say how to install it.
# -------------------------------------------------------------------------------------------------


def import_optional(module: str, purpose: str, install: str) -> ModuleType:
    """Return an optional module.

    Args:
        module: dotted name to import.
        purpose: what needs it, the subject of the error's sentence.
        install: the command that installs it.

    Raises:
        MissingDependencyError: it cannot be imported; the text names all three and the reason.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs the module {module}, which cannot be imported ({error}); "
            f"install it: {install}"
        ) from error
