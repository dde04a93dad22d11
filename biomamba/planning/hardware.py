"""The machine that a run is planned for: figures of its maker, and assumptions that say so."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_number, check_whole

GIB = 2**30
# Fused kernels need it (see biomamba.model.backends.auto), and so does bf16.
_AMPERE = 8.0


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Devices of one kind, a number of them on each node.

    Attributes:
        device: `gpu` or `cpu`; memory of a CPU is shared by the processes of a node.
        name: What the device calls itself, or a part of it; null: any device of this machine.
        devices_per_node: Ranks per node.
        memory_gib: Of one device, of a node's main memory for `cpu`; null: that of this machine.
        capability: Compute capability of a GPU; null: that of this machine.
        peak_tflops: Dense matrix products per `trainer.precision`, as the maker states them;
            without an entry only a probe can give a rate.
        assumed_utilisation: Part of the peak that a step is assumed to reach per backend: an
            assumption, not a measurement.
        reserved_gib: Assumed for the CUDA context, libraries and NCCL on each device.
        gres: What SLURM calls one such GPU; null: `gpu`.
    """

    device: str
    devices_per_node: int
    num_nodes: int = 1
    name: str | None = None
    memory_gib: float | None = None
    capability: float | None = None
    peak_tflops: Mapping[str, float] = field(default_factory=dict)
    assumed_utilisation: Mapping[str, float] = field(default_factory=dict)
    reserved_gib: float = 0.0
    gres: str | None = None

    def __post_init__(self) -> None:
        if self.device not in ("gpu", "cpu"):
            raise ValueError(f"device must be gpu or cpu, got {self.device!r}")
        for key in ("devices_per_node", "num_nodes"):
            check_whole(key, getattr(self, key))
        check_number("memory_gib", self.memory_gib, above=0, optional=True)
        check_number("capability", self.capability, above=0, optional=True)
        check_number("reserved_gib", self.reserved_gib, at_least=0)
        for precision, rate in self.peak_tflops.items():
            check_number(f"peak_tflops.{precision}", rate, above=0)
        for precision, part in self.assumed_utilisation.items():
            check_number(f"assumed_utilisation.{precision}", part, above=0, at_most=1)

    @property
    def world_size(self) -> int:
        """Ranks of a run on all of it."""
        return self.devices_per_node * self.num_nodes

    @property
    def bytes_per_rank(self) -> int:
        """Memory of one rank; that of a CPU is dealt out evenly."""
        assert self.memory_gib is not None, "resolved() fills it in"
        share = self.memory_gib / (self.devices_per_node if self.device == "cpu" else 1)
        return int(share * GIB)

    @property
    def is_bf16_capable(self) -> bool:
        """Whether bf16 products have hardware; a CPU computes them one way or the other."""
        return self.device == "cpu" or (self.capability or 0.0) >= _AMPERE

    def resolved(self) -> "Hardware":
        """Return it with what is left open read from this machine.

        Raises:
            ConfigError: This machine has no GPU to read it from.
        """
        if self.memory_gib is not None and (self.device == "cpu" or self.capability is not None):
            return self
        if self.device == "cpu":
            return replace(self, memory_gib=round(main_memory_bytes() / GIB, 2))
        if not torch.cuda.is_available():
            raise ConfigError(
                "hardware.memory_gib and hardware.capability are null, which means those of this "
                "machine, but it has no GPU: give hardware.memory_gib=80 hardware.capability=8.0, "
                "or choose hardware=v100_8, a100_8 or h100_8"
            )
        found = torch.cuda.get_device_properties(0)
        return replace(
            self,
            memory_gib=self.memory_gib or round(found.total_memory / GIB, 2),
            capability=self.capability or found.major + found.minor / 10,
        )

    def is_here(self) -> bool:
        """Say whether this machine is of that kind, so that a rate measured here counts."""
        if self.device == "cpu":
            return True
        if torch.cuda.device_count() < self.devices_per_node:
            return False
        return self.name is None or self.name in torch.cuda.get_device_name(0)

    def kernel_backend(self, asked: str, *, is_mamba2: bool) -> str:
        """Return what computes the scan there: `auto` takes fused kernels where they can run.

        That mamba-ssm is installed there is assumed.
        """
        if asked != "auto":
            return asked
        can_fuse = self.device == "gpu" and (self.capability or 0.0) >= _AMPERE and is_mamba2
        return "fused" if can_fuse else "chunked"


def main_memory_bytes(limit_file: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return the main memory that processes may use: of the machine, or of their container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        text = limit_file.read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(text)) if text.isdigit() else total
