"""The scan by the Triton kernels of mamba-ssm, the convolution by those of causal-conv1d.

The only module that imports these packages, when a backend is built. mamba-ssm is needed for the
scan; without causal-conv1d the mixer convolves by itself.
Source: mamba-ssm 2.3.2.post1, mamba_ssm/ops/triton/ssd_combined.py; causal-conv1d 1.7.0.
"""

import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from biomamba.model.ssd import MixerParts, document_numbers
from biomamba.runtime.errors import ConfigError, MissingDependencyError, import_optional

INSTALL = "see the head of constraints/cuda.txt; or choose backend=chunked, which needs nothing"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_CHUNK_SIZES = (16, 32, 64, 128, 256)
_MAX_TAPS = 4


class _Kernels(NamedTuple):
    scan: Callable[..., Any]
    mix: Callable[..., Any]
    convolve: Callable[..., Any] | None


class FusedScan:
    """Compute scan, convolution and whole mixers by the kernels of mamba-ssm.

    Products run in the dtype of x (float32 as TF32), decays and final states in float32, states
    between chunks in the dtype of x.

    Raises:
        MissingDependencyError: mamba-ssm, or a package that its kernels need, is not installed.
    """

    name = "fused"

    def __init__(self, chunk_size: int = 256) -> None:
        if chunk_size not in _CHUNK_SIZES:
            raise ValueError(f"chunk_size={chunk_size}: must be one of {list(_CHUNK_SIZES)}")
        self.chunk_size = chunk_size
        self._kernels = _load_kernels()
        self._is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"

    @property
    def has_convolution(self) -> bool:
        """Whether causal-conv1d is there: for the convolution and for whole mixers."""
        return self._kernels.convolve is not None

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
        """Run the scan; see `ScanBackend.scan`.

        Raises:
            ConfigError: The tensors are not on a GPU, or in float64.
        """
        self._check(x)
        # The kernels take the state before position 0 for that of document 0.
        documents = None if seq_idx is None else document_numbers(seq_idx)
        with torch.autocast(x.device.type, enabled=False):
            y, final_state = self._kernels.scan(
                x,
                dt.float(),
                A.float(),
                B.to(x.dtype),
                C.to(x.dtype),
                self.chunk_size,
                initial_states=None if initial_state is None else initial_state.float(),
                seq_idx=documents,
                return_final_states=True,
            )
        return y, final_state

    def selective_scan(self, *_tensors: Tensor, **_options: Tensor | None) -> tuple[Tensor, Tensor]:
        """Refuse: mamba-ssm's kernel for Mamba-1 knows neither documents nor initial states.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "backend=fused has no kernel for Mamba-1 (mamba-ssm's would let documents leak into "
            "each other): choose backend=auto or backend=chunked"
        )

    def convolve(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        documents: Tensor | None,
        past: Tensor | None,
    ) -> Tensor | None:
        """Convolve by causal-conv1d if it has kernels for this; see `ConvolvingBackend`."""
        if self._kernels.convolve is None or not self._can_convolve(x, weight):
            return None
        # Not contiguous(): it leaves the strides of a single position as they are.
        channels_last = x if _is_aligned(x) else x.clone(memory_format=torch.contiguous_format)
        y = self._kernels.convolve(
            channels_last.mT,
            weight,
            bias,
            seq_idx=None if documents is None else documents.contiguous(),
            initial_states=None if past is None else past.contiguous().mT,
            activation="silu",
        )
        return y.mT  # type: ignore[no-any-return]

    def mix(
        self, zxBCdt: Tensor, parts: MixerParts, documents: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Do all between the projections by one kernel call if it can; see `MixingBackend`."""
        # Of other widths the kernel cannot take a single position.
        is_aligned = self.has_convolution and zxBCdt.shape[-1] % 8 == 0
        if not is_aligned or not self._can_convolve(zxBCdt, parts.conv_weight):
            return None
        with torch.autocast(zxBCdt.device.type, enabled=False):
            normed, final_state = self._kernels.mix(
                zxBCdt,
                parts.conv_weight,
                parts.conv_bias,
                parts.dt_bias,
                parts.A,
                parts.D,
                self.chunk_size,
                seq_idx=documents,
                return_final_states=True,
                activation="silu",
                rmsnorm_weight=parts.norm_weight,
                rmsnorm_eps=parts.norm_eps,
                headdim=parts.headdim,
                ngroups=parts.ngroups,
                norm_before_gate=False,
            )
        return normed, final_state

    def _check(self, x: Tensor) -> None:
        if x.dtype not in _DTYPES:
            raise ConfigError(
                f"backend=fused has no kernels for {x.dtype}, only for float32, bfloat16 and "
                "float16: choose backend=chunked, or another trainer.precision"
            )
        if not self._runs_on(x):
            raise ConfigError(
                f"backend=fused runs on NVIDIA GPUs, the tensors are on {x.device}: choose "
                "backend=auto or backend=chunked"
            )

    def _runs_on(self, x: Tensor) -> bool:
        return x.is_cuda or self._is_interpreted

    def _can_convolve(self, x: Tensor, weight: Tensor) -> bool:
        """Whether causal-conv1d covers the device, dtype and sizes."""
        channels, taps = weight.shape
        return (
            self._runs_on(x) and x.dtype in _DTYPES and channels % 8 == 0 and 2 <= taps <= _MAX_TAPS
        )


def _is_aligned(x: Tensor) -> bool:
    """Whether rows of x (batch, length, channels) start at multiples of eight elements."""
    return x.stride(2) == 1 and x.stride(1) % 8 == 0 and x.stride(0) % 8 == 0


@functools.cache
def _load_kernels() -> _Kernels:
    purpose = "backend=fused"
    with _without_package_code("mamba_ssm"):
        scans = import_optional("mamba_ssm.ops.triton.ssd_combined", purpose, INSTALL)
    try:
        convolve = import_optional("causal_conv1d", purpose, INSTALL).causal_conv1d_fn
    except MissingDependencyError:
        convolve = None
    return _Kernels(
        scans.mamba_chunk_scan_combined, scans.mamba_split_conv1d_scan_combined, convolve
    )


@contextmanager
def _without_package_code(name: str) -> Iterator[None]:
    """Import submodules of a package without running its __init__.

    That of mamba_ssm loads Mamba-1's compiled extension, Mamba-3 and transformers: none of them is
    needed here, and an installation without them serves as well. A later import runs it.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        yield
        return
    shell = ModuleType(name)
    shell.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = shell
    try:
        yield
    finally:
        del sys.modules[name]
