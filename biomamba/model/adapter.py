"""Adapters on disk: adapter.safetensors, what was trained, and adapter.json, what it belongs to."""

import secrets
from pathlib import Path
from typing import Any

import torch
from torch import nn

from biomamba.model.formats.tensor_files import read_tensors, some
from biomamba.model.formats.tensor_writer import save_tensors
from biomamba.model.lora import adapted_modules
from biomamba.model.sharding import gather
from biomamba.runtime.atomic import sync_folder, write_json
from biomamba.runtime.errors import CheckpointError
from biomamba.runtime.input_files import MIB, OBJECT, Each, read_json
from biomamba.runtime.ranks import is_rank_zero

ADAPTER, ADAPTER_CONFIG = "adapter.safetensors", "adapter.json"


def save_adapter(model: nn.Module, folder: Path) -> None:
    """Write the trained parameters of a model with adapters; without adapters do nothing.

    Of several processes the first one writes; if the model is sharded all must call this.
    """
    modules = _described(model)
    if not modules:
        return
    state = gather({n: p for n, p in model.named_parameters() if p.requires_grad})
    if not is_rank_zero():
        return
    tensors = {n: p.detach().to("cpu", torch.float32).contiguous() for n, p in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{secrets.token_hex(4)}.tmp.safetensors"
    try:
        save_tensors(tensors, temporary)
        temporary.replace(folder / ADAPTER)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    write_json(folder / ADAPTER_CONFIG, {"modules": modules})


@torch.no_grad()
def load_adapter(model: nn.Module, folder: Path) -> None:
    """Put saved parameters in the places of those of a model with the same adapters.

    Raises:
        CheckpointError: They are missing, damaged or belong to other adapters.
    """
    path = folder / ADAPTER_CONFIG
    try:
        shape = {"modules": Each(OBJECT)}
        content = read_json(path, shape, max_bytes=16 * MIB, error=CheckpointError)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: cannot be read: no such file") from None
    saved = content.get("modules") or {}
    own = _described(model)
    if saved != own:
        raise CheckpointError(
            f"{path} is of other adapters than model.adaptation.lora asks for: "
            f"{_difference(saved, own)}"
        )
    tensors = read_tensors(folder / ADAPTER)
    places = dict(model.named_parameters())
    adapters = {name for name in places if name.rpartition(".")[0] in own and "lora_" in name}
    problems = [f"missing {n}" for n in sorted(adapters - tensors.keys())]
    problems += [
        f"unexpected {name} {tuple(tensor.shape)}"
        for name, tensor in tensors.items()
        if name not in places or places[name].shape != tensor.shape
    ]
    if problems:
        raise CheckpointError(f"{folder / ADAPTER} does not fit the model: {some(problems)}")
    for name, tensor in tensors.items():
        places[name].copy_(tensor)


def _described(model: nn.Module) -> dict[str, dict[str, float]]:
    return {
        name: {"rank": module.lora_rank, "scale": module.scale}
        for name, module in adapted_modules(model)
    }


def _difference(saved: Any, own: dict[str, dict[str, float]]) -> str:
    if not isinstance(saved, dict):
        return f"it holds {type(saved).__name__}"
    differing = sorted(n for n in saved.keys() | own.keys() if saved.get(n) != own.get(n))
    return some([f"{n}: {saved.get(n)}, asked for {own.get(n)}" for n in differing])
