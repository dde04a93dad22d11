"""Checkpoints of a run on disk: whole or absent, and never taken for good when damaged.

A checkpoint `step_0000100.ckpt` has its record `step_0000100.ckpt.json` beside it: the hash of
the file and what one must know before loading it (CheckpointRecord). The record is written first
and also names the hash of the file that is being replaced, so that giving the new file its name is
the one commit point: whenever the process or machine stops, the file is one that its record names.
Lightning's own writer stages in TMPDIR and moves: on another filesystem that copies over the old
file, and a kill or a full disk loses both.
"""

import os
import re
import secrets
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from biomamba.config.annotations import build_record
from biomamba.model.formats.tensors import check_torch_file
from biomamba.runtime.errors import CheckpointError, DataError
from biomamba.runtime.files import (
    TEMPORARY_SUFFIX,
    read_sealed,
    sha256_of,
    sync_folder,
    write_sealed,
)

# Where a checkpoint carries what its record repeats: plain values only.
RUN_KEY = "run"
_NAME = re.compile(r"step_(\d{7,})\.ckpt")


def checkpoint_name(step: int) -> str:
    """Return the file name of the checkpoint after so many steps."""
    return f"step_{step:07d}.ckpt"


def checkpoints_in(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in a folder by their step, the newest first; good or not.

    Raises:
        CheckpointError: If the folder cannot be read: a run must not start again for that.
    """
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be read ({error.strerror}): fix that, or choose another run_id"
        ) from error
    found = {int(match[1]): p for p in paths if (match := _NAME.fullmatch(p.name))}
    return dict(sorted(found.items(), reverse=True))


@dataclass(frozen=True)
class CheckpointRecord:
    """What is beside a checkpoint.

    Attributes:
        step: Finished optimizer steps.
        reason: Why it was saved.
        settings: What decides about the run, as plain values; see resume.py.
        digest: SHA-256 of the file.
        replaced_digest: That of an older file of this name; None if there was none.
    """

    step: int
    reason: str
    settings: Mapping[str, Any]
    digest: str
    replaced_digest: str | None = None

    @staticmethod
    def path_for(checkpoint: Path) -> Path:
        """Return where the record of a checkpoint is."""
        return checkpoint.with_name(f"{checkpoint.name}.json")

    @classmethod
    def read(cls, checkpoint: Path) -> "CheckpointRecord":
        """Read the record of a checkpoint.

        Raises:
            CheckpointError: If it is missing or damaged.
        """
        try:
            path = cls.path_for(checkpoint)
            return build_record(cls, read_sealed(path), path)
        except DataError as error:
            raise CheckpointError(f"{checkpoint}: {error}") from error


def verify_checkpoint(path: Path) -> CheckpointRecord:
    """Compare a checkpoint with the hash in its record; return the record of what was found.

    Raises:
        CheckpointError: If the file or its record is missing, cannot be read or is damaged.
    """
    if not path.is_file():
        beside = sorted(found.name for found in path.parent.glob("*.ckpt"))
        there = f"; there: {', '.join(beside[-3:])}" if beside else ""
        raise CheckpointError(f"{path}: there is no such checkpoint{there}")
    record = CheckpointRecord.read(path)
    try:
        found = sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if found not in {record.digest, record.replaced_digest}:
        size_bytes = path.stat().st_size
        raise CheckpointError(
            f"{path} is damaged or cut: its sha256 ({size_bytes} bytes) is not that of its record"
        )
    return replace(record, digest=found)


class DurableCheckpointIO(CheckpointIO):
    """Writes and reads the checkpoints of a run.

    Attributes:
        is_background: Write in a thread of its own, from a copy in main memory; at most one
            checkpoint is in flight.
        loaded_digest: SHA-256 of the checkpoint that was loaded last; None before.
    """

    def __init__(self, *, is_background: bool = False) -> None:
        self.is_background = is_background
        self.loaded_digest: str | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._in_flight: Future[None] | None = None

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any = None,
    ) -> None:
        """Replace a checkpoint; in the background it is durable only after `wait`.

        Raises:
            CheckpointError: If weights are not finite, if it cannot be written, or an earlier one
                could not; the old file stays, and no other is left.
        """
        self.wait()
        _check_finite(checkpoint, Path(path))
        if not self.is_background:
            _write(checkpoint, Path(path))
            return
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._in_flight = self._writer.submit(_write, _to_main_memory(checkpoint, {}), Path(path))

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Load a checkpoint whose hash is right; only tensors and plain values can be in it.

        Raises:
            CheckpointError: If it is missing, damaged or holds anything else.
        """
        record = verify_checkpoint(Path(path))
        try:
            check_torch_file(Path(path))
            # Mapped: the processes of a node share what they read.
            loaded: dict[str, Any] = torch.load(
                path, map_location=map_location or "cpu", weights_only=True, mmap=True
            )
        except Exception as error:  # torch raises many kinds
            raise CheckpointError(f"{path} cannot be loaded: {error}") from error
        self.loaded_digest = record.digest
        return loaded

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a checkpoint and then its record."""
        Path(path).unlink(missing_ok=True)
        CheckpointRecord.path_for(Path(path)).unlink(missing_ok=True)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being written."""
        return self._in_flight is None or self._in_flight.done()

    def raise_failure(self) -> None:
        """Raise the error of a checkpoint that could not be written, if there is one."""
        if self.is_idle:
            self.wait()

    def wait(self) -> None:
        """Return when everything is durable.

        Raises:
            CheckpointError: If it could not be written.
        """
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is not None:
            in_flight.result()

    def teardown(self) -> None:
        """Let the writer end."""
        if self._writer is not None:
            self._writer.shutdown()
            self._writer = None


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed writer left: temporary files, and records whose file never came."""
    for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)
    for record in folder.glob("*.ckpt.json"):
        if not record.with_suffix("").exists():
            record.unlink(missing_ok=True)


class _HashingFile:
    """Hashes what is meant to be written, not what the disk made of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = sha256()

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def _check_finite(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse weights that no reader of models would take: they would replace good ones."""
    for name, value in checkpoint.get("state_dict", {}).items():
        # A state dict holds counters too. The strategies gather shards before they save.
        is_weight = isinstance(value, Tensor) and value.is_floating_point()
        if is_weight and not torch.isfinite(value).all():
            raise CheckpointError(
                f"{path} is not written: the weights of {name} are not finite. The earlier "
                "checkpoints are whole; continue from one of them in another run "
                "(run_id=<new> resume=<checkpoint> allow_change=true) with a lower optimizer.lr"
            )


def _write(checkpoint: Mapping[str, Any], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            hashing = _HashingFile(file)
            torch.save(dict(checkpoint), hashing)  # type: ignore[arg-type] # has all it calls
            file.flush()
            os.fsync(file.fileno())
        _commit(temporary, path, dict(checkpoint[RUN_KEY]), hashing.digest.hexdigest())
    except (OSError, RuntimeError, DataError) as error:  # torch hides a full disk in RuntimeError
        raise CheckpointError(
            f"cannot write {path} ({_reason(error)}): the earlier checkpoints are whole; make room "
            "and run the same command again"
        ) from error
    finally:
        with suppress(OSError):  # there is no such file any more, or there never was a folder
            temporary.unlink()


def _commit(temporary: Path, path: Path, run: dict[str, Any], digest: str) -> None:
    """Write the record, then give the file its name."""
    replaced = sha256_of(path) if path.exists() else None
    record_path = CheckpointRecord.path_for(path)
    is_new = replaced is None
    try:
        write_sealed(record_path, {**run, "digest": digest, "replaced_digest": replaced})
        temporary.replace(path)
    except BaseException:
        if is_new:
            record_path.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _reason(error: BaseException) -> str:
    """Return the words of the first error of a chain: the disk's, not the serializer's."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _to_main_memory(value: Any, copies: dict[tuple[Any, ...], Tensor]) -> Any:
    """Copy a tree; tensors that share memory (tied weights) still do."""
    if isinstance(value, Tensor):
        place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.dtype)
        key = (*place, value.shape, value.stride(), value.device)
        if key not in copies:
            copies[key] = value.detach().to("cpu", copy=True)
        return copies[key]
    if isinstance(value, Mapping):
        return {name: _to_main_memory(child, copies) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_main_memory(child, copies) for child in value)
    return value
