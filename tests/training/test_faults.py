"""Faults from outside are told in one sentence; defects are left as they are."""

import errno

import pytest
from torch.distributed import DistBackendError

from biomamba.runtime.errors import TrainingError
from biomamba.training.launch import explained_faults

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            ("a process that loads data died", "pid 7", "fewer data.num_workers"),
        ),
        (RuntimeError(f"{GLOO} [127.0.0.1]:9"), ("lost another rank", "Connection closed")),
        (RuntimeError("Timed out waiting 20000ms for recv"), ("lost another rank", "20000ms")),
        (DistBackendError("NCCL error: remote process exited"), ("lost another rank", "remote")),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), ("cannot write /x/y", "room")),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ("a file of the run", "quota")),
    ],
)
def test_the_message_says_what_happened_and_what_to_do(error: Exception, parts: list[str]) -> None:
    with pytest.raises(TrainingError) as told, explained_faults():
        raise error
    assert told.value.__cause__ is error
    for part in (*parts, "the same command continues after the newest checkpoint"):
        assert part in str(told.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not match"),
        RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nTraceback"),
        RuntimeError(""),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        ValueError("Timed out waiting"),
    ],
)
def test_a_defect_keeps_its_error(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explained_faults():
        raise error
    assert raised.value is error
