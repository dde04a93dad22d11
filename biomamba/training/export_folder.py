"""Write a model in the layout of another library: a folder that is complete or not there."""

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from biomamba.data.sealed import sha256_of
from biomamba.data.tokenizer import Tokenizer
from biomamba.data.tokenizer_export import (
    GENERATION_CONFIG,
    TOKENIZER_FILES,
    SpecialIds,
    write_generation_config,
    write_tokenizer,
)
from biomamba.model.checkpoint import open_checkpoint
from biomamba.model.formats.detection import LAYOUTS, layout_for
from biomamba.model.formats.tensor_writer import Container, WeightsFormat, write_weights
from biomamba.runtime.atomic import sync_folder, write_json, write_text
from biomamba.runtime.errors import CheckpointError, ConfigError
from biomamba.runtime.numbers import check_whole
from biomamba.training.export_source import ExportSource

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

    An earlier export there is replaced. Without a tokenizer the files of one that stand beside the
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
            "still is; make room or mend the rights, and run again"
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
            "give the tokenizer.json that lies in the folder of the prepared set"
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
    for name in (*TOKENIZER_FILES, GENERATION_CONFIG):
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
