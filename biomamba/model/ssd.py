"""The contract of the state-space scans, and the glossary of their symbols.

Mamba2. Per head, with decay a_t = dt_t * A < 0, state S (headdim, d_state) and output y obey
    S_t = exp(a_t) S_{t-1} + dt_t x_t (outer) B_t,      y_t = S_t C_t
Source: arXiv 2405.21060, eq. 1-2 with scalar A per head; the block adds the skip D x outside.

Letters, as in Listing 1 of the paper, and shapes, in this order everywhere:
    b batch   l length   h heads   p headdim   n d_state   g groups of heads   c chunks   s source
    x              (batch, length, heads, headdim)     input of the scan
    dt             (batch, length, heads)              step size, positive, after softplus
    A              (heads,)                            decay rate, negative
    B, C           (batch, length, groups, d_state)    input and output maps of a group of heads
    L              (..., l, s)                         exp of the summed decays from s to l, s <= l
    SSM state      (batch, heads, headdim, d_state)    float32 (float64 for float64 inputs)
    conv state     (batch, channels, d_conv)           the last d_conv inputs of the convolution
    seq_idx        (batch, length)                     document of each position

Mamba-1 has no heads. Channel d and state n have a decay of their own, a_t = dt_t[d] A[d, n] < 0:
    S_t[d, n] = exp(a_t) S_{t-1}[d, n] + dt_t[d] x_t[d] B_t[n],      y_t[d] = sum_n S_t[d, n] C_t[n]
Source: arXiv 2312.00752, eq. 2-4 and Algorithm 2; shapes there:
    x, dt          (batch, length, channels)
    A              (channels, d_state)
    B, C           (batch, length, d_state)            of all channels, or (channels, d_state), of
                                                       all positions (its Algorithm 1)
    SSM state      (batch, channels, d_state)
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from biomamba.model.config import Mamba2Config, MambaConfig


class ScanBackend(Protocol):
    """One way to compute the scans; every backend gives the same numbers and gradients."""

    name: str

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
        """Run the recurrence over the length and return `(y, final_state)`.

        Shapes as in the glossary; y like x, in the dtype of x. The state is reset to zero where
        `seq_idx` changes. `initial_state` (None: zero) belongs to the document at position 0.
        `final_state` is the state after the last position, of that position's document only.
        """
        ...

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
        """Run the recurrence of Mamba-1; all else as in `scan`."""
        ...


def state_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of decays and states: float32, or float64 for float64 inputs."""
    return torch.promote_types(x.dtype, torch.float32)


def document_numbers(seq_idx: Tensor) -> Tensor:
    """Number the runs of equal `seq_idx` 0, 1, ... along each row, int32 (batch, length).

    Afterwards two positions belong to one document exactly if their numbers are equal, even if a
    value of `seq_idx` comes back later in the row.
    """
    changes = torch.zeros_like(seq_idx, dtype=torch.int32)
    changes[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return changes.cumsum(1, dtype=torch.int32)


# -------------------------------------------------------------------------------------------------
# What a backend may do beyond the scan; a mixer asks for it and else does it by itself.
#
# A method answers None where its kernels do not fit the tensors: their device, dtype or sizes.
# Letters and shapes: see `biomamba.model.ssd`.
# -------------------------------------------------------------------------------------------------


@runtime_checkable
class ConvolvingBackend(Protocol):
    """A backend with a kernel for the causal depthwise convolution."""

    def convolve(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        documents: Tensor | None,
        past: Tensor | None,
    ) -> Tensor | None:
        """Return silu(conv(x) + bias) like x (batch, length, channels).

        `weight` (channels, d_conv). `documents` (batch, length) as of `document_numbers`: taps do
        not reach into another one. `past` (batch, d_conv - 1, channels; None: zeros) precedes x.
        """
        ...


class MixerParts(NamedTuple):
    """The parameters of a Mamba2 mixer between its two projections."""

    conv_weight: Tensor  # (channels, d_conv)
    conv_bias: Tensor  # (channels,)
    dt_bias: Tensor  # (heads,)
    A: Tensor  # (heads,), negative
    D: Tensor  # (heads,)
    norm_weight: Tensor  # (heads * headdim,)
    norm_eps: float
    headdim: int
    ngroups: int


@runtime_checkable
class MixingBackend(Protocol):
    """A backend with a kernel for all that is between the projections of a Mamba2 mixer.

    It keeps the projected input only and computes the rest again in the backward pass.
    """

    def mix(
        self, zxBCdt: Tensor, parts: MixerParts, documents: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Return the normed output (batch, length, heads * headdim) and the final SSM state.

        `zxBCdt` is what in_proj returns; the states before position 0 are empty.
        """
        ...


# -------------------------------------------------------------------------------------------------
# Count the operations of a scan, which are not those of a product with weights.
# -------------------------------------------------------------------------------------------------


def scan_operations(config: MambaConfig, chunk: int) -> int:
    """Count the operations of one layer's scan per position, forward.

    That of Mamba2 is counted in the four steps of arXiv 2405.21060, section 6, over chunks of so
    many positions; 0 is the recurrence, one position at a time. That of Mamba-1 as 9 operations per
    state (arXiv 2312.00752, appendix D, which leaves the factor open: three multiplications, an
    addition, an exponential and the output).
    """
    if not isinstance(config, Mamba2Config):
        return 9 * config.d_inner * config.d_state
    scores = 2 * chunk * config.ngroups * config.d_state
    mixing = 2 * chunk * config.d_inner
    states = 2 * 2 * config.d_inner * config.d_state  # into the states and out of them
    return scores + mixing + states
