"""Export a model folder, a run or a checkpoint to the layout of another library."""

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from biomamba.data.tokenizer import (
    EXPORTED_FILES,
    GENERATION_CONFIG,
    SpecialIds,
    Tokenizer,
    write_generation_config,
    write_tokenizer,
)
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.checkpoint import StoredModel, open_checkpoint
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.formats.detect import LAYOUTS, layout_for
from biomamba.model.formats.tensors import Container, Weights, WeightsFormat, write_weights
from biomamba.model.language_model import MambaLM
from biomamba.model.lora import Lora, merge_state
from biomamba.runtime.errors import CheckpointError, ConfigError
from biomamba.runtime.files import sha256_of, sync_folder, write_json, write_text
from biomamba.runtime.input_files import read_run_record
from biomamba.runtime.numbers import check_whole
from biomamba.training.callbacks.averaging import Ema
from biomamba.training.checkpoint_io import CheckpointRecord, DurableCheckpointIO, checkpoints_in
from biomamba.training.resume import named_checkpoint

# -------------------------------------------------------------------------------------------------
# What an export starts with: a model folder or hub id, a run, or a checkpoint of a training.
# -------------------------------------------------------------------------------------------------

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
        tokenizer_folder: Where its tokenizer is, if anywhere.
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


# -------------------------------------------------------------------------------------------------
# Write a model in the layout of another library: a folder that is complete or not there.
# -------------------------------------------------------------------------------------------------

RECORD = "export.json"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """What the exported folder is like.

    Attributes:
        name: transformers or state_spaces.
        dtype: float32, bfloat16 or float16.
        container: safetensors, or bin for torch's own files.
        max_shard_bytes: Limit of a file of weights; a single tensor may exceed it.

    Raises:
        ConfigError: A value is not one of these; the message names the key.
    """

    name: str
    dtype: str = "float32"
    container: str = "safetensors"
    max_shard_bytes: int = 2_000_000_000

    def __post_init__(self) -> None:
        _check("format", self.name, {layout.name for layout in LAYOUTS})
        _check("dtype", self.dtype, _DTYPES)
        _check("container", self.container, get_args(Container))
        check_whole("max_shard_bytes", self.max_shard_bytes)

    def of_weights(self, source: ExportSource) -> WeightsFormat:
        """Return how the weights of a source are written."""
        container: Container = "bin" if self.container == "bin" else "safetensors"
        return WeightsFormat(
            layout=layout_for(source.config, self.name),
            dtype=_DTYPES[self.dtype],
            container=container,
            max_shard_bytes=self.max_shard_bytes,
        )


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse to write where something is that this program may not replace.

    Raises:
        ConfigError: There is something.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / RECORD).is_file():
        raise ConfigError(
            f"output is {output}, which holds other things than an export (no {RECORD}) and is "
            "never replaced; name another folder"
        )
    if not overwrite:
        raise ConfigError(
            f"output is {output}, which holds an earlier export; name another folder, or add "
            "overwrite=true to replace it"
        )


def export(
    source: ExportSource,
    form: ExportFormat,
    output: Path,
    tokenizer: Tokenizer | None,
    record: Mapping[str, Any],
    texts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write a source into a folder, read it back, and give the folder its name.

    An earlier export there is replaced. Without a tokenizer the files of one that are beside the
    source are copied. `texts` are further files by name.

    Returns:
        The record that was written: origin, format, rounded tensors and the hash of every file.

    Raises:
        CheckpointError: The weights cannot be written so, or the disk cannot take them.
    """
    check_tokenizer(source, tokenizer)
    weights_form = form.of_weights(source)
    raw = weights_form.layout.render(source.config)
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(4)}.tmp")
    try:
        _begin(temporary, texts or {})
        rounded = write_weights(source.weights, source.config, temporary, weights_form)
        if form.name == "transformers":
            raw |= _write_companions(source, tokenizer, temporary).as_config()
            raw |= {"dtype": form.dtype, "torch_dtype": form.dtype}
        elif tokenizer is not None:
            tokenizer.save(temporary / "tokenizer.json")
        write_json(temporary / "config.json", raw)
        _read_back(source, weights_form, temporary)
        written = {
            **record,
            "source": dict(source.origin),
            "format": {"name": form.name, "dtype": form.dtype, "container": form.container},
            "rounded": rounded,
            "files": {path.name: sha256_of(path) for path in sorted(temporary.iterdir())},
        }
        write_json(temporary / RECORD, written)
        _move_into_place(temporary, output)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {output} ({error.strerror}): nothing of it is left, and what was there "
            "still is; make room or fix the rights, and run again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return written


def _begin(folder: Path, texts: Mapping[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        write_text(folder / name, text)


def check_tokenizer(source: ExportSource, tokenizer: Tokenizer | None) -> None:
    """Refuse a tokenizer that is not the one of the model.

    Raises:
        CheckpointError: It has ids that the model has not, or the training used another one.
    """
    if tokenizer is None:
        return
    if tokenizer.vocab_size > source.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model {source.config.vocab_size}; "
            "give the one that the model was trained with"
        )
    if source.tokenizer_fingerprint not in {None, tokenizer.fingerprint}:
        raise CheckpointError(
            f"the tokenizer has the fingerprint {tokenizer.fingerprint[:12]}, but "
            f"{source.origin['path']} was trained with {str(source.tokenizer_fingerprint)[:12]}; "
            "give the tokenizer.json that is in the folder of the prepared set"
        )


def _write_companions(
    source: ExportSource, tokenizer: Tokenizer | None, folder: Path
) -> SpecialIds:
    """Write or copy the tokenizer and the settings of generation; return the ids they have."""
    config = source.config
    if tokenizer is not None:
        ids = SpecialIds.of(tokenizer)
        write_tokenizer(tokenizer, folder)
        write_generation_config(folder, ids, tokenizer.vocab_size, config.padded_vocab_size)
        return ids
    if source.stored is None:
        return SpecialIds()
    for name in (*EXPORTED_FILES, GENERATION_CONFIG):
        if (source.stored.folder / name).is_file():
            shutil.copyfile(source.stored.folder / name, folder / name)
    raw = source.stored.raw
    ids = SpecialIds(*(raw.get(f"{name}_token_id") for name in ("bos", "eos", "pad")))
    if not (folder / GENERATION_CONFIG).exists():
        write_generation_config(folder, ids, config.vocab_size, config.padded_vocab_size)
    return ids


def _read_back(source: ExportSource, form: WeightsFormat, folder: Path) -> None:
    """Compare what was written with what was meant, through the reader that anyone uses."""
    stored = open_checkpoint(folder)
    found = stored.weights()
    different = [
        name
        for name, tensor in source.weights.items()
        if found[name].dtype != form.dtype or not torch.equal(found[name], tensor.to(form.dtype))
    ]
    if stored.config != source.config or different:
        what = different[0] if different else "config.json"
        raise CheckpointError(
            f"{what} is not what was written: the disk or its file system is at fault; nothing is "
            "left of the export"
        )


def _move_into_place(temporary: Path, output: Path) -> None:
    sync_folder(temporary)
    old = None
    if output.exists() and any(output.iterdir()):
        old = output.with_name(f".{output.name}.{secrets.token_hex(4)}.old")
        output.rename(old)
    try:
        temporary.rename(output)
    except BaseException:
        if old is not None:
            old.rename(output)
        raise
    sync_folder(output.parent)
    if old is not None:
        shutil.rmtree(old)


def _check(key: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise ConfigError(f"{key} is {value!r}, must be one of {', '.join(sorted(allowed))}")
