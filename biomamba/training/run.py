"""The folder of a run: lock, run.json, model folder, order of its curves."""

import fcntl
import math
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning

from biomamba.data.datamodule import TrainingData
from biomamba.model.checkpoint import save_pretrained
from biomamba.model.isolation_probe import Isolation
from biomamba.model.language_model import MambaLM
from biomamba.model.lora import ParameterCount, save_adapter
from biomamba.runtime import slurm
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.files import remove_temporary_files, write_json
from biomamba.runtime.ranks import is_rank_zero
from biomamba.runtime.signals import Interrupted
from biomamba.training.resume import Start, read_record

# -------------------------------------------------------------------------------------------------
# One run at a time in a folder; a killed run leaves no lock.
# -------------------------------------------------------------------------------------------------

LOCK_NAME = ".run.lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder of a run on rank zero.

    A record lock, which forked children do not inherit: the loader's workers outlive a killed run
    for some seconds, and must not keep the next one out.

    Raises:
        ConfigError: If another run holds the folder, or it cannot be written.
    """
    if not is_rank_zero():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_NAME).open("w")
    except OSError as error:
        raise ConfigError(
            f"cannot write in {folder} ({error.strerror}): fix the rights or choose another run_id"
        ) from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"another process trains in {folder}: wait until it has ended, or choose another "
                "run_id"
            ) from error
        yield


# -------------------------------------------------------------------------------------------------
# What a run leaves behind besides curves: run.json and the model folder.
# -------------------------------------------------------------------------------------------------


class RunRecord:
    """run.json: rewritten whole by rank zero at each stage, so that it is never half a file.

    A run that is started again in its folder keeps the list of its starts and its first figures.
    """

    def __init__(
        self,
        path: Path,
        provenance: Mapping[str, Any],
        datamodule: TrainingData,
        start: Start | None = None,
    ) -> None:
        self._path = path
        self._has_begun = False
        self._record: dict[str, Any] = {
            "provenance": dict(provenance),
            "data_fingerprint": datamodule.fingerprint,
            "tokenizer_fingerprint": datamodule.tokenizer_fingerprint,
            "sources": {name: asdict(found) for name, found in datamodule.exposures.items()},
            **_kept(path),
        }
        if start is not None and start.checkpoint is not None:
            self._take_over(provenance, start, start.checkpoint)
        self._write()

    def begin(self, step: int, world_size: int) -> None:
        """Add a start of the run at a step; its end is not known until `end` says it."""
        start = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "world_size": world_size,
            "step": step,
            "slurm_job": slurm.job_id(),
            "slurm_restarts": slurm.restart_count(),
            "end": None,
        }
        self._record.setdefault("starts", []).append(start)
        self._has_begun = True
        self._write()

    def end(self, reason: str) -> None:
        """Say why the last start came to its end."""
        if self._record.get("starts"):
            self._record["starts"][-1]["end"] = reason
            self._write()

    def ensure_started(self, step: int, world_size: int) -> None:
        """Add a start for a fit that had no step left to take, which calls no hook."""
        if not self._has_begun:
            self.begin(step, world_size)

    def close(
        self,
        figures: Sequence[Mapping[str, float]],
        realised: Mapping[str, Mapping[str, Any]],
        selection: Mapping[str, Any] | None,
    ) -> None:
        """Add everything that is known at the end, in one write: after it the run is finished."""
        self._record["realised"] = {name: dict(found) for name, found in realised.items()}
        if selection is not None:
            self._record["selection"] = dict(selection)
        self._record["starts"][-1]["end"] = "finished"
        self.add("after", figures)

    def add(self, stage: str, results: Sequence[Mapping[str, float]]) -> None:
        """Add the validation figures of a stage, as Trainer.validate returns them.

        JSON has no infinity and no nan: they become the words.
        """
        figures = {key: value for result in results for key, value in result.items()}
        self._record[stage] = {
            key: value if math.isfinite(value) else str(value) for key, value in figures.items()
        }
        self._write()

    def add_data(self, description: Mapping[str, Any]) -> None:
        """Add what the data says of itself; nothing if it says nothing."""
        if description:
            self._record["data"] = dict(description)
            self._write()

    def add_restrictions(self, reasons: Sequence[str]) -> None:
        """Add why the run may not be shared; what it was made from may be gone one day."""
        if reasons:
            self._record["restricted"] = list(reasons)
            self._write()

    def add_backend(self, isolation: Isolation) -> None:
        """Add what computes, why, and how well it keeps documents apart."""
        self._record["backend"] = asdict(isolation)
        self._write()

    def add_parameters(self, parameters: ParameterCount) -> None:
        """Add how many numbers the model holds, and how many of them are trained."""
        self._record["parameters"] = asdict(parameters)
        self._write()

    def _take_over(self, provenance: Mapping[str, Any], start: Start, checkpoint: Path) -> None:
        """Continue with the record of this folder, or of the run that the checkpoint belongs to."""
        records = (self._path, checkpoint.absolute().parent.parent / self._path.name)
        earlier = next(filter(None, map(read_record, records)), {})
        first = dict(earlier.get("provenance", provenance))
        resumed = {"step": start.step, "checkpoint": checkpoint.name, "changes": start.changes}
        first["resumes"] = [*first.get("resumes", []), resumed | dict(provenance)]
        self._record["provenance"] = first
        if "before" in earlier:
            self._record["before"] = earlier["before"]

    def _write(self) -> None:
        if is_rank_zero():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, self._record)


class StartRecord(lightning.Callback):
    """Writes each start of the fit, and what stopped it, into the record of the run."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Note the step that the run starts at, after a checkpoint was restored."""
        self._record.begin(trainer.global_step, trainer.world_size)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Note what stopped the run; a full disk must not hide it."""
        is_request = isinstance(exception, Interrupted)
        prefix = "interrupted" if is_request else type(exception).__name__
        with suppress(OSError):
            self._record.end(f"{prefix}: {exception}")


def _kept(path: Path) -> dict[str, Any]:
    """Return the list of the earlier starts in this folder."""
    earlier = read_record(path)
    return {"starts": earlier["starts"]} if "starts" in earlier else {}


def save_model(model: MambaLM, datamodule: TrainingData, folder: Path) -> Path:
    """Write the model in its published layout with the tokenizer of its data beside it.

    Adapters are merged into it, and written apart.

    Rank zero writes; all ranks call it, because the model may be sharded.
    """
    if is_rank_zero():
        remove_temporary_files(folder)
    save_pretrained(model, folder)
    save_adapter(model, folder)
    if is_rank_zero():
        datamodule.save_tokenizer(folder / "tokenizer.json")
    return folder


# -------------------------------------------------------------------------------------------------
# Keep the curves of a run in the order of its starts, whatever the clock says.
# -------------------------------------------------------------------------------------------------

_NAME = re.compile(r"events\.out\.tfevents\.(\d+)(\..+)")
_BEGINNING_BYTES = 4 * 2**20  # what is written once per run is behind one validation at most


def put_before_now(run_dir: Path) -> None:
    """Make the event files of earlier starts come before one that is started now.

    TensorBoard reads the files of a folder by name, which starts with the second of their start; a
    resumed one takes back the points of those before it that are made again. Where the clock went
    back, or the next start comes within a second, the earlier files take names of earlier seconds.
    """
    found = {
        path: match
        for path in run_dir.rglob("events.out.tfevents.*")
        if (match := _NAME.fullmatch(path.name))
    }
    surplus = max((int(match[1]) for match in found.values()), default=0) - int(time.time()) + 1
    if surplus <= 0:
        return
    for path in sorted(found):  # the earliest first: no name is taken by another file
        second = int(found[path][1]) - surplus
        path.rename(path.with_name(f"events.out.tfevents.{second:010d}{found[path][2]}"))


def holds_tag(folder: Path, tag: str) -> bool:
    """Say whether an event file of a folder has a tag near its beginning."""
    name = tag.encode()
    for path in folder.glob("events.out.tfevents.*"):
        with path.open("rb") as file:
            if name in file.read(_BEGINNING_BYTES):
                return True
    return False
