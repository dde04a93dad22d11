"""The norms as torch.compile fuses them, with their gradients, into a few passes over memory.

The formulas are those of norm.py over whole tensors. Compiling takes seconds per kind of input and
is kept on disk by torch; the hand-written ones of norm.py need no compiler.
"""

import functools
import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.model.ssd import state_dtype
from biomamba.runtime.errors import ConfigError


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Normalise x (..., size); see RMSNorm."""
    wide = x.to(state_dtype(x))
    return (_normed(wide, eps) * weight.to(wide.dtype)).to(dtype)


def gated_rms_norm(
    inputs: tuple[Tensor, Tensor],
    skip: tuple[Tensor, Tensor] | None,
    weight: Tensor,
    settings: tuple[float, int, torch.dtype],
) -> Tensor:
    """Gate y with z and normalise in groups; see GatedRMSNorm.

    inputs = y and z; settings = eps, ngroups and the dtype of the output.
    """
    (y, z), (eps, ngroups, dtype) = inputs, settings
    wide = state_dtype(y)
    inner = y.to(wide)
    if skip is not None:
        inner = inner + skip[1].to(wide) * skip[0].to(wide)
    gated = torch.unflatten(inner * F.silu(z.to(wide)), -1, (ngroups, -1))
    return (_normed(gated, eps).flatten(-2) * weight.to(wide)).to(dtype)


def _normed(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


@functools.cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that torch compiles when it is called first."""
    found: Callable[..., Tensor] = torch.compile(function)
    return found


def check_compiler() -> None:
    """Raise ConfigError on a machine without GPU that has no compiler for C++."""
    names = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name]
    if not torch.cuda.is_available() and not any(map(shutil.which, names)):
        raise ConfigError(
            "model.compile_norms is true, but there is no compiler for C++ (looked for "
            f"{', '.join(names)}): install one, or set model.compile_norms=false"
        )
