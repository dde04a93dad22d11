"""Where a run continues, and whether it still is that run."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomamba.config.safety import with_current_names
from biomamba.data.datamodule import TrainingData
from biomamba.data.store.format import settings_difference
from biomamba.runtime.errors import CheckpointError, ConfigError
from biomamba.runtime.input_files import read_run_record
from biomamba.runtime.ranks import is_rank_zero
from biomamba.training.checkpoint_io import CheckpointRecord, checkpoints_in, verify_checkpoint

AUTO = "auto"
_FOLDER = "checkpoints"  # of a run
_LAST_NAME = "last.ckpt"  # no file: the newest good checkpoint beside this name

# Parts of the configuration that change what a step computes. Of the data only the fingerprint
# decides; its configuration is kept to say what has changed.
_TOP_KEYS = ("seed", "max_tokens", "tokens_per_step", "optimizer", "schedule")
_UNDECIDED_OBJECTIVE_KEYS = frozenset({"loss_kernel"})
_UNDECIDED_MODEL_KEYS = frozenset({"backend", "activation_checkpointing", "compile_norms"})
_UNDECIDED_DATA_KEYS = frozenset(
    {
        "sources",
        "num_workers",
        "worker_timeout_seconds",
        "verify",
        "max_val_documents",
        "max_repetition",
    }
)


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        checkpoint: The checkpoint it continues from; None for a new run.
        step: Finished optimizer steps.
        changes: Settings that were allowed to differ from those of the checkpoint, in words.
    """

    checkpoint: Path | None = None
    step: int = 0
    changes: str = ""


@dataclass(frozen=True)
class RunContext:
    """What the callbacks of a run must know about it when they are built.

    Attributes:
        settings: What decides the result, as `run_settings` returns them.
        start: Where the run starts.
        restrictions: Returns why texts of the model may not be shown, one sentence each; empty if
            they may. To be called once the data is set up.
    """

    settings: Mapping[str, Any]
    start: Start
    restrictions: Callable[[], Sequence[str]]


def run_settings(config: Mapping[str, Any], data: TrainingData) -> dict[str, Any]:
    """Return what decides about a run, as JSON has it.

    Args:
        config: The resolved configuration of the program.
        data: The data of the run.
    """
    settings = {name: config[name] for name in _TOP_KEYS} | {
        "model": _without(config["model"], _UNDECIDED_MODEL_KEYS),
        "objective": _without(config["objective"], _UNDECIDED_OBJECTIVE_KEYS),
        "trainer": {"precision": config["trainer"]["precision"]},
        "ema": _ema_settings(config["callbacks"] or {}),
        "data": _data_settings(config["data"]),
        "data_fingerprint": data.fingerprint,
        "tokenizer_fingerprint": data.tokenizer_fingerprint,
    }
    if selection := _selection_settings(config):
        settings["selection"] = selection
    if settings["max_tokens"] is None:  # epochs decide
        settings["max_tokens"] = data.budget.max_tokens
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def find_start(
    resume: str | None, folder: Path, settings: Mapping[str, Any], *, allow_change: bool = False
) -> Start:
    """Find where a run continues; every rank finds the same.

    Args:
        resume: `auto` takes the newest good checkpoint of the folder, or starts again without one;
            a path takes that checkpoint, a folder (of checkpoints, or of a run) the newest good
            one in it, and one named last.ckpt the newest good one beside it; None starts again.
        folder: The checkpoints of this run.
        settings: Of this run, as `run_settings` returns them.
        allow_change: Continue although settings differ.

    Raises:
        CheckpointError: If the named checkpoint, or every one of the folder, is missing or damaged.
        ConfigError: If settings differ, or a new run would write among checkpoints of another.
    """
    if resume is None:
        if checkpoints_in(folder):
            raise ConfigError(
                f"resume is null, but {folder} holds checkpoints: use resume=auto to continue, or "
                "another run_id"
            )
        return Start()
    found = _newest_good(folder) if resume == AUTO else named_checkpoint(Path(resume))
    if found is None:
        return Start()
    path, record = found
    changes = changed_settings(record.settings, settings)
    if changes and not allow_change:
        raise ConfigError(
            f"{path} belongs to a run with other settings: {changes}; run with those, or choose "
            "another run_id, or add allow_change=true to continue with the new ones"
        )
    newest = next(iter(checkpoints_in(folder)), 0)
    if changes and newest > record.step:
        raise ConfigError(
            f"settings differ from those of {path} ({changes}), and {folder} holds a checkpoint "
            f"of step {newest}: choose another run_id to branch off"
        )
    return Start(path, record.step, changes)


def changed_settings(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return which settings differ, with both values; empty if none that decides."""
    key = "data_fingerprint"
    if stored.get(key) == asked.get(key):
        # Paths and other words for the same rows.
        stored, asked = ({n: v for n, v in s.items() if n != "data"} for s in (stored, asked))
    # A class that has moved since is the same class.
    return settings_difference(with_current_names(stored), with_current_names(asked))


def is_finished(start: Start, num_steps: int, record_path: Path) -> bool:
    """Say whether a run has done all its steps, or stopped early, and its record is closed.

    Raises:
        ConfigError: If the record cannot be read, or is closed and there is no checkpoint that
            says of which run.
    """
    record = read_record(record_path)
    is_closed = "after" in record
    stopped_at_step = record.get("selection", {}).get("stopped_at_step")
    if is_closed and start.checkpoint is None:
        raise ConfigError(
            f"{record_path.parent} holds a finished run without checkpoints: choose another run_id"
        )
    return is_closed and start.step in (num_steps, stopped_at_step)


def read_record(path: Path) -> dict[str, Any]:
    """Return the run.json of a run; empty if there is none.

    Raises:
        ConfigError: If there is one that cannot be read.
    """
    try:
        return read_run_record(path, ConfigError)
    except FileNotFoundError:
        return {}
    except ConfigError as error:
        raise ConfigError(
            f"{error}; fix it, or move it away to continue without what it says of earlier starts"
        ) from error


def set_ledger_aside(folder: Path, start: Start) -> None:
    """Keep the ledger of the earlier data apart, if other data was allowed."""
    if "data_fingerprint" in start.changes and folder.is_dir():
        folder.rename(folder.with_name(f"{folder.name}_to_step_{start.step:07d}"))


def logger_options(target: str, start: Start) -> dict[str, Any]:
    """Return what keeps the curves of a resumed run free of points that are taken again.

    Args:
        target: Class of the logger.
        start: Where the run starts.
    """
    if target.endswith(".TensorBoardLogger"):
        # A first start says so, too: it takes back what one left that broke down before it saved,
        # and without it TensorBoard does not recognize the second one (with load_fast=false).
        return {"purge_step": 0 if start.checkpoint is None else start.step + 1}
    if start.checkpoint is None:
        return {}
    if target.endswith(".CSVLogger"):  # it would delete its earlier file
        return {"version": f"from_step_{start.step:07d}"}
    return {}


def _ema_settings(callbacks: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what decides the average of the weights: not where it is written."""
    ema = callbacks.get("ema")
    return None if ema is None else {n: v for n, v in ema.items() if n != "folder"}


def _selection_settings(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what decides which weights are selected, and when the run stops; None if nothing."""
    selection = (config["callbacks"] or {}).get("selection")
    if selection is None:
        return None
    chosen = {n: v for n, v in selection.items() if n != "folder"}
    return chosen | {"val_check_interval": config["trainer"].get("val_check_interval")}


def _without(settings: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _data_settings(data: Mapping[str, Any]) -> dict[str, Any]:
    chosen = _without(data, _UNDECIDED_DATA_KEYS)
    budget = {name: v for name, v in data["budget"].items() if name != "micro_batch_size"}
    return chosen | {"budget": budget}


def named_checkpoint(path: Path) -> tuple[Path, CheckpointRecord]:
    """Return a checkpoint that is good; of a folder, or last.ckpt in it, the newest good one.

    Args:
        path: A checkpoint, the folder of the checkpoints of a run, or the folder of the run.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    if path.name == _LAST_NAME and not path.exists():
        path = path.parent
    if not path.is_dir():
        return path, verify_checkpoint(path)
    found = _newest_good(path) or _newest_good(path / _FOLDER)
    if found is None:
        is_model = (path / "config.json").is_file()
        reason = (
            "is the folder of a model, which holds weights alone and no state to continue from; "
            "model.checkpoint=<folder> starts a new run from these weights"
            if is_model
            else f"holds no checkpoint (step_*.ckpt), and neither does {path / _FOLDER}; give a "
            "checkpoint, its folder or the folder of its run"
        )
        raise CheckpointError(f"resume: {path} {reason}")
    return found


def _newest_good(folder: Path) -> tuple[Path, CheckpointRecord] | None:
    damaged = []
    for path in checkpoints_in(folder).values():
        try:
            record = verify_checkpoint(path)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        if damaged and is_rank_zero():
            sys.stderr.write(f"warning: {'; '.join(damaged)}; taking {path} instead\n")
        return path, record
    if damaged:
        raise CheckpointError(
            f"no checkpoint of the run is good: {'; '.join(damaged)}; restore one, or choose "
            "another run_id"
        )
    return None
