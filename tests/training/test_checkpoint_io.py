"""Checkpoints on disk: durable, verified, whole or absent, also through kills and full disks."""

import functools
import itertools
import math
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from biomamba.runtime.errors import CheckpointError
from biomamba.runtime.files import _sealed_bytes
from biomamba.training import checkpoint_io
from biomamba.training.checkpoint_io import (
    CheckpointRecord,
    DurableCheckpointIO,
    remove_leftovers,
    verify_checkpoint,
)

NUM_VALUES = 10_000


def content(step: int) -> dict[str, Any]:
    run = {"step": step, "reason": "test", "settings": {"seed": 1}}
    return {"weights": torch.full((NUM_VALUES,), float(step)), "run": run}


def save(folder: Path, step: int, *, is_background: bool = False) -> Path:
    io = DurableCheckpointIO(is_background=is_background)
    path = folder / f"step_{step:07d}.ckpt"
    io.save_checkpoint(content(step), path)
    io.wait()
    io.teardown()
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let writes fail as on a full disk; Python ignores the signal that comes with it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("is_background", [False, True])
def test_what_is_saved_comes_back_with_its_record(tmp_path: Path, is_background: bool) -> None:
    path = save(tmp_path / "new", 7, is_background=is_background)
    io = DurableCheckpointIO()
    loaded = io.load_checkpoint(path)
    assert torch.equal(loaded["weights"], content(7)["weights"])
    record = verify_checkpoint(path)
    assert io.loaded_digest == record.digest == sha256(path.read_bytes()).hexdigest()
    assert (record.step, record.reason, record.settings) == (7, "test", {"seed": 1})
    assert names(path.parent) == ["step_0000007.ckpt", "step_0000007.ckpt.json"]


def damage(path: Path, kind: str) -> None:
    stored = bytearray(path.read_bytes())
    if kind == "cut":
        path.write_bytes(stored[:-1])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "flipped":
        stored[len(stored) // 2] ^= 1
        path.write_bytes(stored)
    elif kind == "record":
        record = CheckpointRecord.path_for(path)
        record.write_text(record.read_text().replace('"step": 3', '"step": 4'))
    elif kind == "no record":
        CheckpointRecord.path_for(path).unlink()
    else:
        path.unlink()


@pytest.mark.parametrize("kind", ["cut", "empty", "flipped", "record", "no record", "missing"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path, 3)
    damage(path, kind)
    with pytest.raises(CheckpointError, match=path.name):
        DurableCheckpointIO().load_checkpoint(path)


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    stored = path.read_bytes()
    for position in torch.randint(len(stored), (50,)).tolist():
        path.write_bytes(stored[:position] + bytes([stored[position] ^ 1]) + stored[position + 1 :])
        with pytest.raises(CheckpointError, match="damaged or cut"):
            verify_checkpoint(path)


def test_a_checkpoint_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, 3)

    def fail(_: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint_io, "sha256_of", fail)
    with pytest.raises(CheckpointError, match="cannot be read: Input/output error"):
        verify_checkpoint(path)


def test_an_object_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "step_0000001.ckpt"
    DurableCheckpointIO().save_checkpoint({**content(1), "path": Path("x")}, path)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        DurableCheckpointIO().load_checkpoint(path, weights_only=False)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("is_background", [False, True])
def test_weights_that_are_not_finite_replace_no_checkpoint(
    tmp_path: Path, value: float, is_background: bool
) -> None:
    good = save(tmp_path, 1)
    weights = {"model.a.weight": torch.ones(3), "model.b.weight": torch.tensor([0.0, value])}
    io = DurableCheckpointIO(is_background=is_background)

    with pytest.raises(CheckpointError, match=r"step_0000002.* model\.b\.weight are not finite"):
        io.save_checkpoint(content(2) | {"state_dict": weights}, tmp_path / "step_0000002.ckpt")
    io.teardown()
    assert sorted(path.name for path in tmp_path.iterdir()) == [good.name, f"{good.name}.json"]


@pytest.mark.parametrize("is_background", [False, True])
@pytest.mark.parametrize("num_bytes", [0, 1_000, NUM_VALUES * 4])
def test_a_full_disk_leaves_the_old_checkpoints_and_no_litter(
    tmp_path: Path, num_bytes: int, is_background: bool
) -> None:
    old = save(tmp_path, 1)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    for step in (1, 2):  # over the old one, and beside it
        with largest_file(num_bytes), pytest.raises(CheckpointError, match="File too large"):
            save(tmp_path, step, is_background=is_background)
        assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    verify_checkpoint(old)


def test_the_old_file_is_good_until_the_new_one_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, 1)

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", fail)
    monkeypatch.setattr(checkpoint_io, "write_sealed", written_plainly)
    with pytest.raises(KeyboardInterrupt):
        DurableCheckpointIO().save_checkpoint(content(2), path)
    record = verify_checkpoint(path)
    assert record.digest == record.replaced_digest  # of the file that is there
    assert DurableCheckpointIO().load_checkpoint(path)["weights"][0] == 1


def written_plainly(path: Path, record: dict[str, Any]) -> None:
    """Write a record without the rename that is made to fail."""
    path.write_bytes(_sealed_bytes(record))


def test_a_failure_in_the_background_is_raised_by_the_main_thread(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    io = DurableCheckpointIO(is_background=True)
    io.save_checkpoint(content(1), tmp_path / "file" / "step_0000001.ckpt")
    with pytest.raises(CheckpointError, match="cannot write"):
        io.wait()
    io.save_checkpoint(content(1), tmp_path / "file" / "step_0000001.ckpt")
    while not io.is_idle:
        pass
    with pytest.raises(CheckpointError, match="cannot write"):
        io.raise_failure()
    io.wait()  # raised once
    io.teardown()


def test_the_background_writes_what_was_there_when_it_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = torch.zeros(4)
    written: list[Any] = []
    monkeypatch.setattr(checkpoint_io, "_write", lambda content, _: written.append(content))
    io = DurableCheckpointIO(is_background=True)
    tied = {"a": weights, "b": weights.detach(), "list": [weights, (1, "x")]}
    io.save_checkpoint(tied, tmp_path / "step_0000001.ckpt")
    weights += 1
    io.wait()
    io.teardown()
    (copy,) = written
    assert torch.equal(copy["a"], torch.zeros(4))
    assert copy["a"] is copy["b"]
    assert copy["list"][1] == (1, "x")


def test_leftovers_of_a_killed_writer_are_removed_and_nothing_else(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (tmp_path / ".step_0000002.ckpt.0badcafe.tmp").write_text("half")
    (tmp_path / ".step_0000002.ckpt.json.0badcafe.tmp").write_text("half")
    (tmp_path / "step_0000002.ckpt.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("kept")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["notes.txt", path.name, f"{path.name}.json"]
    remove_leftovers(tmp_path / "absent")


def test_a_removed_checkpoint_takes_its_record_with_it(tmp_path: Path) -> None:
    DurableCheckpointIO().remove_checkpoint(save(tmp_path, 1))
    assert names(tmp_path) == []


def other_filesystem(folder: Path) -> Path:
    """Return a folder on another filesystem, or skip."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == folder.stat().st_dev:
        pytest.skip("no writable tmpfs at /dev/shm that is another filesystem")
    return memory


def save_for_ever(folder: Path, first: int, out: int, *, is_same: bool, in_thread: bool) -> None:
    """Save one checkpoint after the other and tell of each step that is behind."""
    torch.set_num_threads(1)
    io = DurableCheckpointIO(is_background=in_thread)
    for step in itertools.count(first):
        run = {"step": step, "reason": "loop", "settings": {}}
        path = folder / f"step_{0 if is_same else step:07d}.ckpt"
        io.save_checkpoint({"weights": torch.full((100_000,), float(step)), "run": run}, path)
        if not is_same:
            io.remove_checkpoint(folder / f"step_{step - 3:07d}.ckpt")
        os.write(out, f"{step}\n".encode())


@contextmanager
def forked(function: Callable[[int], None]) -> Iterator[tuple[int, IO[str]]]:
    """Run a function of a pipe in another process; give its id and the reading end."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            function(writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as lines:
        yield child, lines


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("is_same", [True, False])  # one file replaced, or a file per step
def test_a_kill_at_any_time_leaves_a_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_same: bool, in_thread: bool
) -> None:
    monkeypatch.setenv("TMPDIR", str(other_filesystem(tmp_path)))
    last = 0
    for delay_seconds in (torch.rand(10) * 0.05).tolist():
        options = {"is_same": is_same, "in_thread": in_thread}
        saver = functools.partial(save_for_ever, tmp_path, last + 1, **options)
        with forked(saver) as (child, lines):
            printed = [int(lines.readline()) for _ in range(3)]
            time.sleep(delay_seconds)
            os.kill(child, signal.SIGKILL)
            printed += [int(line) for line in lines.read().split()]
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        remove_leftovers(tmp_path)
        assert not [name for name in names(tmp_path) if name.startswith(".")]
        files = sorted(tmp_path.glob("*.ckpt"))
        steps = [int(DurableCheckpointIO().load_checkpoint(p)["weights"][0]) for p in files]
        # In the background the last one that was announced may not have got there.
        assert max(steps) >= printed[-1] - in_thread
        last = max(steps)
