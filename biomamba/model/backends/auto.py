"""The backend that suits the tensors: fused kernels on a GPU that has them, else chunks."""

import logging
from typing import NamedTuple

import torch
from torch import Tensor

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.backends.fused import FusedScan
from biomamba.model.ssd import ConvolvingBackend, MixerParts, MixingBackend, ScanBackend
from biomamba.runtime.errors import MissingDependencyError
from biomamba.runtime.ranks import is_rank_zero

_LOG = logging.getLogger(__name__)
# Triton supports NVIDIA GPUs from 8.0 on; below, its products do not use the tensor cores.
_MIN_CAPABILITY = (8, 0)


class Choice(NamedTuple):
    """A backend and why it is taken."""

    backend: ScanBackend
    reason: str


class AutoScan:
    """Choose by device, compute capability, installed packages and dtype, and say so once."""

    name = "auto"

    def __init__(self, chunk_size: int = 64) -> None:
        self._chunked = ChunkedScan(chunk_size)
        self._choices: dict[tuple[torch.device, torch.dtype, bool], Choice] = {}

    def choice(
        self, device: torch.device, dtype: torch.dtype, *, is_selective: bool = False
    ) -> Choice:
        """Return what scans tensors of a device and dtype, of Mamba-1 if selective; log it once."""
        key = (device, dtype, is_selective)
        if key not in self._choices:
            choice = self._choose(*key)
            if choice not in self._choices.values() and is_rank_zero():
                _LOG.info("backend=auto takes %s: %s", choice.backend.name, choice.reason)
            self._choices[key] = choice
        return self._choices[key]

    def scan(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        *,
        seq_idx: Tensor | None = None,
        initial_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the scan; see `ScanBackend.scan`."""
        backend = self.choice(x.device, x.dtype).backend
        return backend.scan(x, dt, A, B, C, seq_idx=seq_idx, initial_state=initial_state)

    def selective_scan(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        *,
        seq_idx: Tensor | None = None,
        initial_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the scan of Mamba-1; see `ScanBackend.selective_scan`."""
        backend = self.choice(x.device, x.dtype, is_selective=True).backend
        return backend.selective_scan(x, dt, A, B, C, seq_idx=seq_idx, initial_state=initial_state)

    def convolve(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        documents: Tensor | None,
        past: Tensor | None,
    ) -> Tensor | None:
        """Convolve if the chosen backend does; see `ConvolvingBackend`."""
        backend = self.choice(x.device, x.dtype).backend
        if not isinstance(backend, ConvolvingBackend):
            return None
        return backend.convolve(x, weight, bias, documents, past)

    def mix(
        self, zxBCdt: Tensor, parts: MixerParts, documents: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Mix if the chosen backend does; see `MixingBackend`."""
        backend = self.choice(zxBCdt.device, zxBCdt.dtype).backend
        if not isinstance(backend, MixingBackend):
            return None
        return backend.mix(zxBCdt, parts, documents)

    def _choose(self, device: torch.device, dtype: torch.dtype, is_selective: bool) -> Choice:
        obstacle = _obstacle(device, dtype, is_selective)
        if obstacle is None:
            try:
                fused = FusedScan()
            except MissingDependencyError as error:
                obstacle = str(error)
            else:
                missing = "" if fused.has_convolution else ", without those of causal-conv1d"
                return Choice(fused, f"{_gpu(device)} runs its kernels{missing}")
        return Choice(self._chunked, obstacle)


def choice_of(
    backend: ScanBackend, device: torch.device, dtype: torch.dtype, *, is_selective: bool = False
) -> Choice:
    """Return what a backend uses for tensors of a device and dtype, and why."""
    if isinstance(backend, AutoScan):
        return backend.choice(device, dtype, is_selective=is_selective)
    return Choice(backend, f"asked for by backend={backend.name}")


def _obstacle(device: torch.device, dtype: torch.dtype, is_selective: bool) -> str | None:
    """Say what keeps the fused kernels from tensors like these."""
    if device.type != "cuda" or torch.version.cuda is None:
        return f"the fused kernels need an NVIDIA GPU, not {device.type}"
    if is_selective:
        return "Mamba-1 has no fused kernel that knows documents"
    if dtype == torch.float64:
        return "the fused kernels have no float64"
    if torch.cuda.get_device_capability(device) < _MIN_CAPABILITY:
        return f"on {_gpu(device)} the fused kernels would not use the tensor cores (from 8.0 on)"
    return None


def _gpu(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
