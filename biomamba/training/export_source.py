"""What an export begins with: a model folder or hub id, a run, or a checkpoint of a training."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.checkpoint import StoredModel, open_checkpoint
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.formats.weights import Weights
from biomamba.model.language_model import MambaLM
from biomamba.model.lora import Lora, merge_state
from biomamba.runtime.errors import CheckpointError, ConfigError
from biomamba.runtime.record_shapes import read_run_record
from biomamba.training.callbacks.checkpoint import checkpoints_in
from biomamba.training.callbacks.ema import Ema
from biomamba.training.checkpoint_io import CheckpointRecord, DurableCheckpointIO
from biomamba.training.resume import named_checkpoint

Choice = Literal["model", "ema"]
_CONFIGS = {found.__name__: found for found in (Mamba1Config, Mamba2Config)}
_LORA = {field.name for field in fields(Lora)}
_MODEL_PREFIX = "model."
# What a run writes at its end: callbacks/ema.yaml names the second.
_FOLDERS: Mapping[Choice, str] = {"model": "model", "ema": "model_ema"}


@dataclass(frozen=True)
class ExportSource:
    """Weights, and what is known about them.

    Attributes:
        weights: Mapped, not read.
        config: Of their model.
        origin: Where they come from, as plain values for the record.
        tokenizer_folder: Where its tokenizer lies, if anywhere.
        stored: The model folder; None for a checkpoint of a training.
        tokenizer_fingerprint: Of the data that a training checkpoint was trained on.
    """

    weights: Weights
    config: MambaConfig
    origin: Mapping[str, Any]
    tokenizer_folder: Path
    stored: StoredModel | None = None
    tokenizer_fingerprint: str | None = None


def find_source(checkpoint: str, weights: str) -> ExportSource:
    """Find the weights of a model folder or hub id, a run folder, or a `step_*.ckpt`.

    A run that has finished has its model; of another one the newest good checkpoint is taken.

    Args:
        checkpoint: Its path or hub id.
        weights: `model`, or `ema` for their average.

    Raises:
        ConfigError: There is no such choice, or a model folder has no average.
        CheckpointError: It is missing, damaged, or something else.
    """
    choice = checked_choice(weights)
    path = Path(checkpoint).expanduser()
    if path.suffix == ".ckpt":
        return _of_training(path, choice)
    if path.is_dir() and not (path / "config.json").is_file():
        if _is_finished(path) and (path / _FOLDERS[choice]).is_dir():
            return _of_folder(str(path / _FOLDERS[choice]), choice)
        for folder in (path / "checkpoints", path):
            if checkpoints_in(folder):
                return _of_training(folder / "last.ckpt", choice)
    elif choice == "ema":
        raise ConfigError(
            f"weights is ema, but {checkpoint} is a model, which has one set of weights; give the "
            "run folder, a checkpoint of it, or its folder model_ema with weights=model"
        )
    return _of_folder(checkpoint, choice)


def check_checkpoint(checkpoint: str) -> None:
    """Refuse a path where nothing is; a name with at most one `/` may be a hub id.

    Raises:
        CheckpointError: There is nothing.
    """
    path = Path(checkpoint).expanduser()
    is_path = path.suffix == ".ckpt" or checkpoint.count("/") > 1 or checkpoint[:1] in "./~"
    # last.ckpt stands for the newest one, whether or not there is a file of this name.
    if is_path and not path.exists() and path.name != "last.ckpt":
        raise CheckpointError(f"checkpoint is {checkpoint}: no such folder or file")


def checked_choice(choice: str) -> Choice:
    """Return the choice of `weights`.

    Raises:
        ConfigError: There is no such one.
    """
    if choice not in get_args(Choice):
        raise ConfigError(f"weights is {choice!r}, must be one of {', '.join(get_args(Choice))}")
    return "ema" if choice == "ema" else "model"


def _is_finished(run: Path) -> bool:
    try:
        return "after" in read_run_record(run / "run.json", CheckpointError)
    except FileNotFoundError:
        return False


def _of_folder(path_or_hub_id: str, choice: Choice) -> ExportSource:
    stored = open_checkpoint(path_or_hub_id)
    origin = {
        "kind": "model",
        "path": path_or_hub_id,
        "layout": stored.layout.name,
        "sha256": stored.files().digest(),
        "weights": choice,
    }
    return ExportSource(stored.weights(), stored.config, origin, stored.folder, stored)


def _of_training(path: Path, choice: Choice) -> ExportSource:
    path, record = named_checkpoint(path)
    content = DurableCheckpointIO().load_checkpoint(path)
    config = _config(record, path)
    tensors = _average(content, path) if choice == "ema" else _model(content)
    tensors = _without_adapters(tensors, record, config)
    origin = {
        "kind": "training checkpoint",
        "path": str(path),
        "step": record.step,
        "sha256": record.digest,
        "weights": choice,
        "data_fingerprint": record.settings.get("data_fingerprint"),
    }
    fingerprint = record.settings.get("tokenizer_fingerprint")
    # Beside the model that the run has written, if it has.
    beside = path.absolute().parent.parent / _FOLDERS["model"]
    weights = Weights(tensors, config, path)
    return ExportSource(weights, config, origin, beside, tokenizer_fingerprint=fingerprint)


def _config(record: CheckpointRecord, path: Path) -> MambaConfig:
    """Rebuild the config of the model; the class is one of ours, whatever the record names."""
    try:
        values = dict(record.settings["model"]["config"])
        kind = str(values.pop("_target_")).rpartition(".")[2]
        return _CONFIGS[kind](**values)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{CheckpointRecord.path_for(path)}: describes no model that can be exported: {error!r}"
        ) from error


def _without_adapters(
    tensors: dict[str, Tensor], record: CheckpointRecord, config: MambaConfig
) -> dict[str, Tensor]:
    """Add the adapters of a run to the weights; those are read, not mapped."""
    settings = (record.settings["model"].get("adaptation") or {}).get("lora")
    if settings is None:
        return tensors
    with torch.device("meta"):
        model = MambaLM(config, ReferenceScan())
        Lora(**{name: value for name, value in settings.items() if name in _LORA}).add_to(model)
    return merge_state(model, tensors)


def _model(content: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name.removeprefix(_MODEL_PREFIX): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith(_MODEL_PREFIX)
    }


def _average(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    callbacks = content.get("callbacks", {})
    if Ema.__qualname__ not in callbacks:
        raise CheckpointError(
            f"{path}: holds no average of the weights (the run had no callbacks=ema); export it "
            "with weights=model"
        )
    average: dict[str, Tensor] = callbacks[Ema.__qualname__]["average"]
    return average
