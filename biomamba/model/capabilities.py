"""What a backend may do beyond the scan; a mixer asks for it and else does it by itself.

A method answers None where its kernels do not fit the tensors: their device, dtype or sizes.
Letters and shapes: see `biomamba.model.ssd`.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


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
    """A backend with a kernel for all that lies between the projections of a Mamba2 mixer.

    It keeps the projected input only and computes the rest again in the backward pass.
    """

    def mix(
        self, zxBCdt: Tensor, parts: MixerParts, documents: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Return the normed output (batch, length, heads * headdim) and the final SSM state.

        `zxBCdt` is what in_proj returns; the states before position 0 are empty.
        """
        ...
