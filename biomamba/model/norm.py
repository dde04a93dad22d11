"""RMSNorm, plain and gated, with statistics in float32 (float64 for float64 inputs).

Hand-written backwards that keep nothing but the inputs and make the rest again, tile by tile: on a
CPU the float32 arrays in between then stay in the cache.
"""

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from biomamba.model.ssd import state_dtype
from biomamba.runtime.errors import ConfigError

# -------------------------------------------------------------------------------------------------
# The norms as torch.compile fuses them, with their gradients, into a few passes over memory.
#
# The formulas are those of norm.py over whole tensors. Compiling takes seconds per kind of input
# and is kept on disk by torch; the hand-written ones of norm.py need no compiler.
# -------------------------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Normalize x (..., size); see RMSNorm."""
    wide = x.to(state_dtype(x))
    return (_normed(wide, eps) * weight.to(wide.dtype)).to(dtype)


def gated_rms_norm(
    inputs: tuple[Tensor, Tensor],
    skip: tuple[Tensor, Tensor] | None,
    weight: Tensor,
    settings: tuple[float, int, torch.dtype],
) -> Tensor:
    """Gate y with z and normalize in groups; see GatedRMSNorm.

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


# -------------------------------------------------------------------------------------------------
# RMSNorm, plain and gated, with statistics in float32 (float64 for float64 inputs).
# -------------------------------------------------------------------------------------------------

# Elements of one tile on a CPU: 512 KiB in float32; the few arrays in use then fit the L2 cache.
_TILE_ELEMENTS = 2**17


def product_dtype(weight: Tensor) -> torch.dtype:
    """Return the dtype that matrix products run in: autocast's, or else that of the weights."""
    device_type = weight.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return weight.dtype


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last dimension and scale.

    The output has the dtype of the following matrix product.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.is_compiled = False
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (..., size)."""
        if self.is_compiled:
            return compiled(rms_norm)(x, self.weight, self.eps, product_dtype(self.weight))
        normed: Tensor = _Norm.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.eps, product_dtype(self.weight)
        )
        return normed


class GatedRMSNorm(nn.Module):
    """Gate, then normalize each of `ngroups` parts of the last dimension: norm(y * silu(z)).

    Source: state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba2.py (RMSNormGated with
    norm_before_gate=False, group_size=d_inner/ngroups).
    """

    def __init__(self, size: int, eps: float, ngroups: int = 1) -> None:
        super().__init__()
        self.eps = eps
        self.ngroups = ngroups
        self.is_compiled = False
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, y: Tensor, z: Tensor, skip: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Gate y with z, both (..., size), and normalize.

        `skip` = x (..., size) and D (size,): y + D x takes the place of y.
        """
        settings = self.eps, self.ngroups, product_dtype(self.weight)
        if self.is_compiled:
            return compiled(gated_rms_norm)((y, z), skip, self.weight, settings)
        x, D = (None, None) if skip is None else skip
        normed: Tensor = _GatedNorm.apply(  # type: ignore[no-untyped-call]
            y, z, x, D, self.weight, settings
        )
        return normed


class _Norm(torch.autograd.Function):
    """x / rms(x) * weight over the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        scale = weight.to(state_dtype(x))
        for x_t, out_t in _tiles(x, out):
            wide = x_t.to(scale.dtype)
            out_t.copy_((wide * _inverse_rms(wide, eps)).mul_(scale))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        scale = weight.to(state_dtype(x))
        g_x, g_scale = _like(x), torch.zeros_like(scale)
        for x_t, grad_t, g_x_t in _tiles(x, grad, g_x):
            wide, grad_wide = x_t.to(scale.dtype), grad_t.to(scale.dtype)
            inverse = _inverse_rms(wide, ctx.eps)
            normed = wide * inverse
            g_scale += (grad_wide * normed).sum(0)
            g_x_t.copy_(_norm_backward(grad_wide * scale, normed, inverse))
        return g_x, g_scale.to(weight.dtype), None, None


class _GatedNorm(torch.autograd.Function):
    """norm((y + D x) * silu(z)) * weight, in `ngroups` parts; `settings` = eps, ngroups, dtype."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        y, z, x, D, weight, (eps, ngroups, dtype) = args
        ctx.save_for_backward(*args[:-1])
        ctx.settings = eps, ngroups
        out = torch.empty(y.shape, dtype=dtype, device=y.device)
        scale = weight.to(state_dtype(y))
        for y_t, z_t, x_t, out_t in _tiles(y, z, x, out):
            gated = _with_skip(y_t, x_t, D, scale.dtype) * F.silu(z_t.to(scale.dtype))
            groups = torch.unflatten(gated, -1, (ngroups, -1))
            out_t.copy_(groups.mul_(_inverse_rms(groups, eps)).flatten(-2).mul_(scale))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, z, x, D, weight = ctx.saved_tensors
        eps, ngroups = ctx.settings
        scale = weight.to(state_dtype(y))
        g_y, g_z, g_x = _like(y), _like(z), None if x is None else _like(x)
        g_scale, g_D = torch.zeros_like(scale), torch.zeros_like(scale)
        for y_t, z_t, x_t, grad_t, g_y_t, g_z_t, g_x_t in _tiles(y, z, x, grad, g_y, g_z, g_x):
            inner, gate = _with_skip(y_t, x_t, D, scale.dtype), z_t.to(scale.dtype)
            opened, grad_wide = F.silu(gate), grad_t.to(scale.dtype)
            groups = torch.unflatten(inner * opened, -1, (ngroups, -1))
            inverse = _inverse_rms(groups, eps)
            normed = groups.mul_(inverse)
            g_scale += (grad_wide * normed.flatten(-2)).sum(0)
            g_normed = torch.unflatten(grad_wide * scale, -1, (ngroups, -1))
            g_gated = _norm_backward(g_normed, normed, inverse).flatten(-2)
            g_z_t.copy_(torch.ops.aten.silu_backward(inner.mul_(g_gated), gate))
            g_inner = g_gated.mul_(opened)
            g_y_t.copy_(g_inner)
            if g_x_t is not None:
                g_D += (g_inner * x_t).sum(0)
                g_x_t.copy_(g_inner.mul_(D))
        return g_y, g_z, g_x, None if D is None else g_D.to(D.dtype), g_scale.to(weight.dtype), None


def _with_skip(y: Tensor, x: Tensor | None, D: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return y + D x as a new tensor."""
    wide = y.to(dtype, copy=True)
    if x is not None and D is not None:
        wide.addcmul_(x.to(dtype), D.to(dtype))
    return wide


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    mean: Tensor = torch.linalg.vecdot(x, x).unsqueeze(-1) / x.shape[-1]
    return mean.add_(eps).rsqrt_()


def _norm_backward(grad: Tensor, normed: Tensor, inverse: Tensor) -> Tensor:
    """Return the gradient of x where normed = x * inverse, overwriting `grad`."""
    mean = torch.linalg.vecdot(grad, normed).unsqueeze(-1) / normed.shape[-1]
    return grad.addcmul_(normed, mean, value=-1).mul_(inverse)


def _like(tensor: Tensor) -> Tensor:
    """Return room for a contiguous tensor, whatever the strides of this one."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _tiles(*tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Yield the rows (n, size) of all tensors (..., size) by parts that fit the cache of a CPU."""
    first = next(tensor for tensor in tensors if tensor is not None)
    rows, size = first.shape[:-1].numel(), first.shape[-1]
    per_tile = max(1, _TILE_ELEMENTS // size) if first.device.type == "cpu" else max(1, rows)
    flat = [None if tensor is None else tensor.reshape(-1, size) for tensor in tensors]
    for start in range(0, rows, per_tile):
        at = slice(start, start + per_tile)
        yield tuple(None if tensor is None else tensor[at] for tensor in flat)
