"""Write the weights of a checkpoint: one file, or several with an index, one at a time."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from biomamba.model.config import MambaConfig
from biomamba.model.formats.layout import Layout
from biomamba.model.formats.tensor_files import SAFETENSORS, TORCH
from biomamba.model.formats.weights import EMBEDDING, HEAD, Weights
from biomamba.runtime.atomic import write_json
from biomamba.runtime.errors import CheckpointError

Container = Literal["safetensors", "bin"]


@dataclass(frozen=True, kw_only=True)
class WeightsFormat:
    """How weights are written.

    Attributes:
        layout: The names.
        dtype: Of every tensor.
        container: Kind of file; bin is torch's own, which mamba_ssm reads.
        max_shard_bytes: Limit of a file; a single tensor may exceed it. Writing takes about twice
            this in memory.
    """

    layout: Layout
    dtype: torch.dtype = torch.float32
    container: Container = "safetensors"
    max_shard_bytes: int = 2_000_000_000


def write_weights(
    weights: Weights, config: MambaConfig, folder: Path, form: WeightsFormat
) -> dict[str, float]:
    """Write all tensors into an empty folder and make them durable.

    Returns:
        Tensors that had to be rounded -> the largest relative change of a number (1: lost to 0).

    Raises:
        CheckpointError: A number is not finite, or too large for the dtype.
    """
    names = form.layout.stored_names(config)
    shards = list(_plan(weights, form))
    rounded: dict[str, float] = {}
    places: dict[str, str] = {}
    total_bytes = 0
    for number, shard in enumerate(shards, start=1):
        name = _file_name(form.container, number, len(shards))
        tensors = {names[own]: _narrowed(own, weights[own], form.dtype, rounded) for own in shard}
        total_bytes += sum(t.nbytes for t in tensors.values())
        if form.container == "bin" and config.tie_embeddings and EMBEDDING in shard:
            # mamba_ssm insists on it; a tensor that is there twice is stored once.
            tensors[HEAD] = tensors[names[EMBEDDING]]
        places |= dict.fromkeys(tensors, name)
        save_tensors(tensors, folder / name)
        del tensors  # before the next ones are made
    if len(shards) > 1:
        whole = SAFETENSORS if form.container == "safetensors" else TORCH
        index = {"metadata": {"total_size": total_bytes}, "weight_map": places}
        write_json(folder / f"{whole}.index.json", index)
    return rounded


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a file of tensors that a reader takes, and make its content durable.

    Raises:
        CheckpointError: A number is not finite, or the disk cannot take it.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path} is not written: {name} holds numbers that are not finite, which no reader "
                "takes"
            )
    try:
        if path.suffix == ".bin":
            torch.save(dict(tensors), path)
        else:
            path.touch()
            mode = path.stat().st_mode  # as of any new file; the library makes one of 0600
            save_file(dict(tensors), path, metadata={"format": "pt"})
            path.chmod(stat.S_IMODE(mode))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}; make room and try again") from error
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plan(weights: Weights, form: WeightsFormat) -> Iterator[list[str]]:
    """Deal the tensors out over files, in their order."""
    shard: list[str] = []
    size = 0
    for name, shape in weights.shapes.items():
        bytes_more = shape.numel() * form.dtype.itemsize
        if shard and size + bytes_more > form.max_shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += bytes_more
    yield shard


def _file_name(container: Container, number: int, count: int) -> str:
    stem, suffix = ("model", "safetensors") if container == "safetensors" else (TORCH[:-4], "bin")
    return f"{stem}.{suffix}" if count == 1 else f"{stem}-{number:05d}-of-{count:05d}.{suffix}"


def _narrowed(name: str, tensor: Tensor, dtype: torch.dtype, rounded: dict[str, float]) -> Tensor:
    """Copy a tensor as `dtype`, and note its rounding."""
    narrow = tensor.to(dtype, copy=True).contiguous()
    if dtype == tensor.dtype:
        return narrow
    if torch.isfinite(tensor).all() and not torch.isfinite(narrow).all():
        raise CheckpointError(
            f"{name} holds {tensor.abs().max().item():.3g}, too large for {dtype}; export bfloat16 "
            "or float32"
        )
    wide = tensor.to(torch.float32)
    change = (narrow.to(torch.float32) - wide).abs_()
    if change.any():
        rounded[name] = change.div_(wide.abs()).nan_to_num_(0.0).max().item()
    return narrow
