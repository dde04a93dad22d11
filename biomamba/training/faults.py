"""Say in one sentence what ended a run from outside, and that it can go on."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import DistError

from biomamba.runtime.errors import TrainingError

_AGAIN = "the same command goes on behind the newest checkpoint"
# gloo raises bare RuntimeErrors where NCCL and the store have a class of their own.
_LOST_RANK = re.compile(r"gloo/transport|Connection (closed|reset) by peer|Timed out waiting")
_DEAD_WORKER = "DataLoader worker (pid"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def explained_faults() -> Iterator[None]:
    """Turn the errors of a dead data worker, a lost rank and a full disk into TrainingError.

    Raises:
        TrainingError: With the error as its cause; other errors are left alone.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise TrainingError(f"{reason}; {_AGAIN}") from error


def _reason(error: RuntimeError | OSError) -> str | None:
    words = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, OSError):
        if error.errno not in _NO_ROOM:
            return None
        return f"cannot write {error.filename or 'a file of the run'} ({error.strerror}): make room"
    if _DEAD_WORKER in words:
        return (
            f"a process that loads data died ({words}): usually the machine ran out of memory, and "
            "fewer data.num_workers need less"
        )
    if isinstance(error, DistError) or _LOST_RANK.search(str(error)):
        return (
            f"lost another rank of the run ({words}): it died or hangs, and the first error stands "
            "in its own output"
        )
    return None
