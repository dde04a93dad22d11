"""RMSNorm, plain and gated, with statistics in float32 (float64 for float64 inputs)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biomamba.model.ssd import state_dtype


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
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., size)."""
        dtype = state_dtype(x)
        normed = F.rms_norm(x.to(dtype), (x.shape[-1],), self.weight.to(dtype), self.eps)
        return normed.to(product_dtype(self.weight))


class GatedRMSNorm(nn.Module):
    """Gate, then normalise each of `ngroups` parts of the last dimension: norm(y * silu(z)).

    Source: state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba2.py (RMSNormGated with
    norm_before_gate=False, group_size=d_inner/ngroups).
    """

    def __init__(self, size: int, eps: float, ngroups: int = 1) -> None:
        super().__init__()
        self.eps = eps
        self.ngroups = ngroups
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Gate y with z, both (..., size), and normalise."""
        dtype = state_dtype(y)
        gated = y.to(dtype) * F.silu(z.to(dtype))
        grouped = gated.view(*gated.shape[:-1], self.ngroups, -1)
        normed = F.rms_norm(grouped, (grouped.shape[-1],), None, self.eps).flatten(-2)
        return (normed * self.weight.to(dtype)).to(product_dtype(self.weight))
