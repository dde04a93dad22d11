"""Adaptation: LoRA adapters, which parameters are trained, and adapters on disk.

Whoever reads `module.weight`, as fused kernels and the tied head do, has W + alpha / rank * B A
with its gradients; a call of the module never forms that sum. The base weight keeps its name in
the state dict, so that checkpoints load as ever.
Source: arXiv 2106.09685, section 4.1: W + alpha / rank * B A, B zero at the start.
Deviation: no dropout in front of A, because the reader of a weight has no input to drop.
"""

import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from biomamba.model.formats.tensors import read_tensors, save_tensors, some
from biomamba.model.sharding import gather
from biomamba.runtime.errors import CheckpointError, ConfigError
from biomamba.runtime.files import sync_folder, write_json
from biomamba.runtime.input_files import MIB, OBJECT, Each, read_json
from biomamba.runtime.numbers import check_number, check_whole
from biomamba.runtime.ranks import is_rank_zero

A_NAME, B_NAME = "lora_a", "lora_b"


@dataclass(frozen=True)
class Lora:
    """Settings of the adapters.

    targets are the last parts of module names, such as in_proj: every nn.Linear or nn.Embedding
    of that name gets an adapter of this rank, scaled by alpha / rank.
    """

    rank: int
    alpha: float
    targets: Sequence[str]

    def __post_init__(self) -> None:
        check_whole("rank", self.rank)
        check_number("alpha", self.alpha, above=0)
        if not self.targets:
            raise ValueError("targets must name at least one module, such as in_proj")

    @property
    def scale(self) -> float:
        """Factor of the product of the two matrices."""
        return self.alpha / self.rank

    def add_to(self, model: nn.Module) -> None:
        """Give every target an adapter; the outputs stay the same bit by bit.

        Raises:
            ConfigError: A target matches nothing that can have one, or less than the rank.
        """
        found = [self._modules(model, target) for target in self.targets]
        for name, module in {name: m for modules in found for name, m in modules.items()}.items():
            self._check_rank(name, module)
            kind: Any = type(module)
            module.__class__ = _adapted(kind)
            assert isinstance(module, LoraWeight)
            module.start(self.rank, self.scale)

    def _modules(self, model: nn.Module, target: str) -> dict[str, nn.Module]:
        possible: dict[str, nn.Module] = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.Embedding)
        }
        found = {n: m for n, m in possible.items() if f".{n}".endswith(f".{target}")}
        if not found:
            names = sorted({name.rpartition(".")[2] for name in possible})
            raise ConfigError(
                f"the target {target!r} of model.adaptation.lora names no matrix of this model; it "
                f"has {', '.join(names)} (a tied head is part of the embedding)"
            )
        return found

    def _check_rank(self, name: str, module: nn.Module) -> None:
        shape = tuple(module.get_parameter("weight").shape)
        if self.rank > min(shape):
            raise ConfigError(
                f"model.adaptation.lora.rank is {self.rank}, but {name} is {shape}: more than "
                f"{min(shape)} adds nothing"
            )


class LoraWeight(nn.Module):
    """What an adapted module is besides a Linear or an Embedding.

    lora_a is (rank, columns), lora_b is (rows, rank), both float32 like every master weight.
    """

    scale: float
    lora_a: nn.Parameter
    lora_b: nn.Parameter

    def start(self, rank: int, scale: float) -> None:
        """Add the two matrices, of which B is zero."""
        base = self.base
        self.scale = scale
        self.lora_a = nn.Parameter(base.new_empty(rank, base.shape[1]))
        self.lora_b = nn.Parameter(base.new_zeros(base.shape[0], rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as nn.Linear starts

    @property
    def lora_rank(self) -> int:
        """Rows of A."""
        return len(self.lora_a)

    @property
    def base(self) -> Tensor:
        """The weight without the adapter."""
        found = self._parameters["weight"]
        assert found is not None
        return found

    @property
    def weight(self) -> Tensor:
        """The weight with the adapter, of the dtype of the base: autocast does not round it.

        Of a sharded model it is whole while its unit computes. In between it is the shard of the
        base, because FSDP2 looks its parameters up by this name.
        """
        if isinstance(self.base, DTensor):
            return self.base
        return merged_weight(self.base, self.lora_a, self.lora_b, self.scale)


def merged_weight(base: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float) -> Tensor:
    """Return base + scale * lora_b lora_a."""
    with torch.autocast(base.device.type, enabled=False):
        return torch.addmm(base, lora_b, lora_a, alpha=scale)


def adapted_modules(model: nn.Module) -> Iterator[tuple[str, LoraWeight]]:
    """Yield the names of the modules that have an adapter, and these."""
    for name, module in model.named_modules():
        if isinstance(module, LoraWeight):
            yield name, module


def merge_state(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of the model without adapters that computes the same.

    `state` is the whole state of the model, by the names of its state dict.
    """
    merged = dict(state)
    for name, module in adapted_modules(model):
        lora_a, lora_b = merged.pop(f"{name}.{A_NAME}"), merged.pop(f"{name}.{B_NAME}")
        base = merged[f"{name}.weight"]
        merged[f"{name}.weight"] = merged_weight(base, lora_a, lora_b, module.scale)
    return merged


def _linear(self: Any, x: Tensor) -> Tensor:
    """Add the narrow products to the one of the base, in place of forming the weight."""
    added = F.linear(F.linear(x, self.lora_a), self.lora_b)
    return torch.add(F.linear(x, self.base, self.bias), added, alpha=self.scale)


def _embedding(self: Any, ids: Tensor) -> Tensor:
    """Look the rows up in base and B, in place of forming the weight of all words."""
    with torch.autocast(self.base.device.type, enabled=False):
        added = F.embedding(ids, self.lora_b) @ self.lora_a
    return torch.add(F.embedding(ids, self.base), added, alpha=self.scale)


# Kinds with a call of their own read `weight`.
_CALLS: dict[Any, Callable[[Any, Tensor], Tensor]] = {
    nn.Linear.forward: _linear,
    nn.Embedding.forward: _embedding,
}


@cache
def _adapted(kind: Any) -> Any:
    """Return the class of the modules of a class that have an adapter."""
    call = _CALLS.get(kind.forward)
    own = {"__module__": __name__} | ({} if call is None else {"forward": call})
    return type(f"Lora{kind.__name__}", (LoraWeight, kind), own)


# -------------------------------------------------------------------------------------------------
# Adapters on disk: adapter.safetensors, what was trained, and adapter.json, what it belongs to.
# -------------------------------------------------------------------------------------------------

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


# -------------------------------------------------------------------------------------------------
# Which parameters of a model are trained: adapters, chosen parts, or all but some.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adaptation:
    """What is trained of a model; without settings all of it.

    With lora only the adapters are. train and freeze are patterns of parameter names, such as
    `*.norm.weight` or `backbone.layers.0.*`: with train only what matches one is trained (besides
    the adapters), and nothing that matches one of freeze. adapter is the model folder of an earlier
    run with the same adapters, which continue from there.
    """

    lora: Lora | None = None
    train: Sequence[str] = ()
    freeze: Sequence[str] = ()
    adapter: str | None = None

    def __post_init__(self) -> None:
        if self.adapter is not None and self.lora is None:
            raise ValueError(f"adapter={self.adapter} needs lora, which says where adapters are")

    def apply(self, model: nn.Module) -> None:
        """Add the adapters and let only what is to be trained have gradients.

        Raises:
            ConfigError: A target or a pattern matches nothing, or nothing is left to train.
            CheckpointError: The adapter cannot be read or is another one.
        """
        if self.lora is not None:
            self.lora.add_to(model)
        names = [name for name, _ in model.named_parameters()]
        adapters = {n for n in names if n.endswith((f".{A_NAME}", f".{B_NAME}"))}
        chosen = _matching(names, self.train, "train")
        trained = adapters | chosen if adapters or self.train else set(names)
        trained -= _matching(names, self.freeze, "freeze")
        if not trained:
            raise ConfigError(
                "model.adaptation leaves nothing to train: freeze fewer parameters, found freeze="
                f"{list(self.freeze)}"
            )
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        if self.adapter is not None:
            load_adapter(model, Path(self.adapter))


def _matching(names: Sequence[str], patterns: Sequence[str], key: str) -> set[str]:
    found = set()
    for pattern in patterns:
        matches = {name for name in names if fnmatchcase(name, pattern)}
        if not matches:
            ends = sorted({".".join(name.split(".")[-2:]) for name in names})
            raise ConfigError(
                f"the pattern {pattern!r} of model.adaptation.{key} matches no parameter; write "
                f"*. before the end of a name: {', '.join(ends)}"
            )
        found |= matches
    return found


@dataclass(frozen=True)
class ParameterCount:
    """Numbers that a model holds, and those of them that are trained."""

    total: int
    trained: int

    @classmethod
    def of(cls, model: nn.Module) -> "ParameterCount":
        """Count a model, sharded or not."""
        sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
        return cls(sum(n for n, _ in sizes), sum(n for n, is_trained in sizes if is_trained))
