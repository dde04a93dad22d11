"""The loss of a linear head by the Triton kernel of liger-kernel, for training on a GPU.

The same sum as `linear_cross_entropy`; the softmax and its gradient are one kernel per block of
rows. The only module that imports the package, when the kernel is chosen.
Source: liger-kernel 0.8.5, liger_kernel/ops/fused_linear_cross_entropy.py.
"""

import functools
import os
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from biomamba.model.cross_entropy import (
    BLOCK_BYTES,
    IGNORED_TARGET,
    check_arguments,
    linear_cross_entropy,
)
from biomamba.model.norm import product_dtype
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.optional import import_optional

LOSS_KERNELS = ("chunked", "liger")
INSTALL = (
    "pip install -e '.[liger]' -c constraints/cuda.txt; or set objective.loss_kernel=chunked, "
    "which needs nothing"
)
_CHUNKED = "set objective.loss_kernel=chunked"
# Not float16: the gradient of one target would be rounded before the loss scaler has raised it.
_DTYPES = (torch.float32, torch.bfloat16)


class SummedLoss(Protocol):
    """What `linear_cross_entropy` computes; see there."""

    def __call__(
        self,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        *,
        target_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the (weighted) sum of nll in nats."""
        ...


def loss_of(kernel: str) -> SummedLoss:
    """Return the loss by one of LOSS_KERNELS."""
    return {"chunked": linear_cross_entropy, "liger": fused_linear_cross_entropy}[kernel]


def check_loss_kernel(kernel: str, device: torch.device, *, is_sharded: bool) -> None:
    """Refuse a kernel that cannot run there, before anything is computed.

    Raises:
        ConfigError: The device is no NVIDIA GPU, or the weights are dealt out over processes.
        MissingDependencyError: liger-kernel is not installed.
    """
    if kernel != "liger":
        return
    if is_sharded:
        raise ConfigError(
            "objective.loss_kernel=liger takes whole weights, and trainer.strategy deals them out "
            f"over processes: {_CHUNKED}, or take a trainer without fsdp"
        )
    if device.type != "cuda" and not _is_interpreted():
        raise ConfigError(
            f"objective.loss_kernel=liger runs on NVIDIA GPUs, the model is on {device}: {_CHUNKED}"
        )
    _load_kernel()


def fused_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, target_weights: Tensor | None = None
) -> Tensor:
    """Return what `linear_cross_entropy` does; arguments and errors as there.

    Gradients of the weight are added in float32. Weighted targets cost a second pass: the kernel
    makes their gradients in the backward pass. Padding rows of the weight take part, as there.

    Raises:
        ConfigError: The tensors are not on a GPU, are sharded, or the products are in a dtype
            other than float32 and bfloat16.
    """
    check_arguments(hidden, weight, targets, target_weights)
    check_loss_kernel("liger", hidden.device, is_sharded=isinstance(weight, DTensor))
    dtype = product_dtype(weight)
    if dtype not in _DTYPES:
        raise ConfigError(
            f"objective.loss_kernel=liger computes in float32 or bfloat16, not {dtype}: "
            f"{_CHUNKED}, or another trainer.precision"
        )
    hidden = hidden.to(dtype)
    if weight.requires_grad and not hidden.requires_grad:
        # Without a gradient for the hidden vectors the kernel makes none for the weight.
        hidden = hidden.detach().requires_grad_()
    found: Tensor = _load_kernel().apply(*_arguments(hidden, weight, targets, target_weights))[0]
    return found if target_weights is None else (found * target_weights.to(found.dtype)).sum()


def _arguments(
    hidden: Tensor, weight: Tensor, targets: Tensor, target_weights: Tensor | None
) -> tuple[Any, ...]:
    """Return the arguments of the kernel, in its order."""
    # Blocks of logits as large as those of `linear_cross_entropy`, in multiples of hidden.
    multiple = max(1, BLOCK_BYTES // max(hidden.nbytes, 1))
    no_bias = no_class_weights = no_softcap = default = None
    no_z_loss = no_smoothing = 0.0
    reduction = "sum" if target_weights is None else "none"
    return (
        *(hidden, weight, targets, no_bias, no_class_weights, IGNORED_TARGET),
        *(no_z_loss, no_smoothing, reduction, no_softcap),
        False,  # return_z_loss
        torch.float32,  # accum_dtype
        *(False, False, False),  # use_token_scaling, return_token_accuracy, return_predicted_tokens
        *(default, default),  # ce_impl, ce_mode: the Triton kernel
        multiple,
    )


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _load_kernel() -> Any:
    module = import_optional(
        "liger_kernel.ops.fused_linear_cross_entropy", "objective.loss_kernel=liger", INSTALL
    )
    return module.LigerFusedLinearCrossEntropyFunction
