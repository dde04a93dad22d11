"""The parameters of a model that is not built: shapes on the meta device, bytes exactly."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from biomamba.model.adaptation import Adaptation
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import MambaConfig
from biomamba.model.language_model import MambaLM

_FLOAT32 = 4


@dataclass(frozen=True)
class Parameter:
    """Name, shape and whether it is trained."""

    name: str
    shape: tuple[int, ...]
    is_trained: bool

    @property
    def numel(self) -> int:
        """Numbers it holds."""
        return torch.Size(self.shape).numel()

    def shard_numel(self, world_size: int) -> int:
        """Numbers of the largest shard: FSDP2 deals out rows and fills the parts up."""
        rows = -(-self.shape[0] // world_size)
        return rows * torch.Size(self.shape[1:]).numel()


@dataclass(frozen=True)
class Parameters:
    """All parameters of a model in their order; master weights are float32."""

    all: tuple[Parameter, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "Parameters":
        """Read them from a model on any device."""
        found = ((n, tuple(p.shape), p.requires_grad) for n, p in model.named_parameters())
        return cls(tuple(Parameter(*each) for each in found))

    @classmethod
    def described(cls, config: MambaConfig, adaptation: Adaptation | None) -> "Parameters":
        """Make the model on the meta device, which holds no numbers, and read them.

        Raises:
            ConfigError: The adaptation names what the model does not have.
        """
        with torch.device("meta"):
            model = MambaLM(config, ChunkedScan())
            if adaptation is not None:
                replace(adaptation, adapter=None).apply(model)
        return cls.of(model)

    @property
    def trained(self) -> tuple[Parameter, ...]:
        """Those that have gradients and optimizer states."""
        return tuple(parameter for parameter in self.all if parameter.is_trained)

    @property
    def total_numel(self) -> int:
        """Numbers of the model."""
        return sum(parameter.numel for parameter in self.all)

    @property
    def trained_numel(self) -> int:
        """Numbers that are trained."""
        return sum(parameter.numel for parameter in self.trained)

    def of_blocks(self) -> list[int]:
        """Return the numbers of each block, of the most to the fewest."""
        sizes: dict[str, int] = {}
        for parameter in self.all:
            if (unit := _block_of(parameter.name)) is not None:
                sizes[unit] = sizes.get(unit, 0) + parameter.numel
        return sorted(sizes.values(), reverse=True)

    def outside_blocks(self) -> int:
        """Return the numbers of embedding, last norm and head."""
        return sum(p.numel for p in self.all if _block_of(p.name) is None)


def float32_bytes(parameters: Sequence[Parameter], world_size: int = 1) -> int:
    """Return the bytes of float32 tensors of these shapes, or of their shards on one rank."""
    return _FLOAT32 * sum(p.shard_numel(world_size) for p in parameters)


def adamw_bytes(parameters: Sequence[Parameter], world_size: int = 1) -> int:
    """Return the bytes of AdamW's state: two averages, and one float32 step per parameter."""
    return 2 * float32_bytes(parameters, world_size) + _FLOAT32 * len(parameters)


def _block_of(name: str) -> str | None:
    head, found, rest = name.partition("layers.")
    return head + rest.split(".")[0] if found else None
