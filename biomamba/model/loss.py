"""Cross-entropy of a linear head without the full logits: in blocks, or by a fused kernel."""

import functools
import os
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from biomamba.model.norm import product_dtype
from biomamba.model.ssd import state_dtype
from biomamba.runtime.errors import ConfigError, DataError, import_optional
from biomamba.runtime.numbers import check_whole

# -------------------------------------------------------------------------------------------------
# Cross-entropy of a linear head without ever holding the full logits.
#
# Rows are scored in blocks, and the gradient of a block is made in the place of its logits: three
# products, one block, and sums over blocks in float32 (float64 for float64 inputs). Rows whose
# target is -100 are not computed at all.
# -------------------------------------------------------------------------------------------------

IGNORED_TARGET = -100
# Logits of one block. The products want many rows, the memory few: beside the gradients a loss
# needs one block, and under autocast the narrow weights.
BLOCK_BYTES = 96 << 20
_BLOCK_ROWS_MULTIPLE = 64
# The softmax goes over a block in pieces, so that its passes meet in the cache and only a piece is
# wide. A GPU has no such cache, but a price per kernel.
_PIECE_BYTES = {"cpu": 4 << 20}
_PIECE_BYTES_ELSEWHERE = 48 << 20
# Columns of the weight gradient that are added up at once where products are narrower than sums.
_VOCAB_PIECE = 4096
# Softmax entries over a large vocabulary are below the normal range of fp16 (6e-5); scaled they
# keep their digits, and the sum over a block of rows that agree on one wrong word still fits.
_FP16_SCALE = 8.0


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    target_weights: Tensor | None = None,
    block_rows: int | None = None,
) -> Tensor:
    """Return the summed nll in nats, a float32 scalar with gradients for hidden and weight.

    `hidden` (rows, d_model), `weight` (vocab, d_model), `targets` (rows,), -100 = ignored.
    `target_weights` (rows,) multiplies the nll of each target; None: all are 1.
    `block_rows` (None: as many as a block of 96 MiB holds) does not change the result but for the
    order of sums. Its backward pass can run once: it hands out the gradients themselves.

    Raises:
        DataError: A target is neither -100 nor a row of the weight.
        ValueError: The shapes do not fit or block_rows is not positive.
    """
    check_arguments(hidden, weight, targets, target_weights)
    _check_rows(block_rows)
    needs = [torch.is_grad_enabled() and tensor.requires_grad for tensor in (hidden, weight)]
    total: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, target_weights, block_rows, needs
    )
    return total


@torch.no_grad()
def token_nll(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, block_rows: int | None = None
) -> Tensor:
    """Return the nll in nats of each row, (rows,), without gradient; 0 where the target is -100.

    Arguments and errors as in `linear_cross_entropy`.
    """
    check_arguments(hidden, weight, targets)
    _check_rows(block_rows)
    narrow = weight.to(product_dtype(weight))
    nll = hidden.new_zeros(targets.shape, dtype=state_dtype(hidden))
    for rows, h in _blocks(hidden, narrow, targets, block_rows):
        nll[rows] = _score(_logits(h, narrow), targets[rows], makes_grad=False)
    return nll


def check_ids(ids: Tensor, vocab_size: int, name: str, *, ignored: int | None = None) -> None:
    """Refuse ids outside the vocabulary, on which a GPU would only report a failed assertion.

    Raises:
        DataError: An id is neither `ignored` nor from 0 to vocab_size - 1.
    """
    if torch.compiler.is_compiling():
        return
    is_wrong = (ids < 0) | (ids >= vocab_size)
    if ignored is not None:
        is_wrong &= ids != ignored
    if is_wrong.any():
        place = [int(index) for index in is_wrong.nonzero()[0]]
        also = "" if ignored is None else f", or {ignored} to leave a position out"
        raise DataError(
            f"{name}{place} is {int(ids[tuple(place)])}, but the model has the ids 0 to "
            f"{vocab_size - 1}{also}; {int(is_wrong.sum())} of {ids.numel()} are outside. Prepare "
            "the text with the tokenizer of the model"
        )


def check_arguments(
    hidden: Tensor, weight: Tensor, targets: Tensor, target_weights: Tensor | None = None
) -> None:
    """Refuse what no loss of a linear head can be computed of.

    Raises:
        DataError: A target is neither -100 nor a row of the weight.
        ValueError: The shapes do not fit.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)}: must be "
            "(rows, d_model) and (vocab, d_model)"
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"targets {tuple(targets.shape)}: must have one entry per row of hidden, "
            f"{hidden.shape[0]}"
        )
    if target_weights is not None and target_weights.shape != targets.shape:
        raise ValueError(
            f"target_weights {tuple(target_weights.shape)}: must have one entry per target, "
            f"{len(targets)}"
        )
    check_ids(targets, len(weight), "targets", ignored=IGNORED_TARGET)


def _check_rows(block_rows: int | None) -> None:
    check_whole("block_rows", block_rows, optional=True)


def _blocks(
    hidden: Tensor, narrow: Tensor, targets: Tensor, block_rows: int | None
) -> Iterator[tuple[Tensor | slice, Tensor]]:
    """Yield the rows of each block that are scored, and their hidden vectors for the products."""
    size = block_rows or _fitting_rows(narrow)
    scored = (targets != IGNORED_TARGET).nonzero().squeeze(1)
    is_whole = len(scored) == len(targets)
    for start in range(0, len(scored), size):
        # A slice is read where it is; chosen rows are copied.
        rows = slice(start, start + size) if is_whole else scored[start : start + size]
        yield rows, hidden[rows].to(narrow.dtype)


def _fitting_rows(narrow: Tensor) -> int:
    """Return how many rows fit a block; as a multiple, which products are made for."""
    rows = BLOCK_BYTES // (max(narrow.shape) * narrow.element_size())
    return max(rows // _BLOCK_ROWS_MULTIPLE, 1) * _BLOCK_ROWS_MULTIPLE


def _logits(hidden: Tensor, narrow: Tensor) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        return hidden @ narrow.t()


def _score(
    block: Tensor, targets: Tensor, factors: Tensor | None = None, *, makes_grad: bool
) -> Tensor:
    """Return the nll of each row of logits (rows, vocab), whose place is used for other things.

    With makes_grad it holds scale * factor * (softmax - one-hot) afterwards; factors (rows,).
    """
    wide, scale = state_dtype(block), _scale(block.dtype)
    nll = block.new_empty(len(block), dtype=wide)
    budget = _PIECE_BYTES.get(block.device.type, _PIECE_BYTES_ELSEWHERE)
    size = max(budget // (block.shape[1] * wide.itemsize), 1)
    for start in range(0, len(block), size):
        rows = slice(start, start + size)
        logits, columns = block[rows].to(wide), targets[rows].unsqueeze(1)
        picked, largest = logits.gather(1, columns).squeeze(1), logits.amax(1)
        softmax = torch.softmax(logits, 1, out=logits)
        # The largest entry is 1 / sum(exp(logits - largest)), so it never is 0.
        nll[rows] = largest - softmax.amax(1).log() - picked
        if makes_grad:
            softmax.scatter_add_(1, columns, softmax.new_full(columns.shape, -1.0))
            if scale != 1.0:
                softmax *= scale
            if factors is not None:
                softmax *= factors[rows].unsqueeze(1)
            if softmax.dtype != block.dtype:
                block[rows] = softmax
    return nll


def _scale(dtype: torch.dtype) -> float:
    return _FP16_SCALE if dtype == torch.float16 else 1.0


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of nll; the gradients for a unit gradient are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        target_weights: Tensor | None,
        block_rows: int | None,
        needs: list[bool],
    ) -> Tensor:
        grad_hidden = torch.zeros_like(hidden) if needs[0] else None
        grad_weight = torch.zeros_like(weight, dtype=state_dtype(weight)) if needs[1] else None
        total = hidden.new_zeros((), dtype=state_dtype(hidden))
        narrow = weight.to(product_dtype(weight))
        for rows, h in _blocks(hidden, narrow, targets, block_rows):
            block = _logits(h, narrow)
            factors = None if target_weights is None else target_weights[rows].to(total.dtype)
            nll = _score(block, targets[rows], factors, makes_grad=any(needs))
            total += (nll if factors is None else nll * factors).sum()
            with torch.autocast(h.device.type, enabled=False):
                if grad_hidden is not None:
                    grad_hidden[rows] = (block @ narrow).to(grad_hidden.dtype)
                if grad_weight is not None:
                    _add_product(grad_weight, block, h)
            del block  # before the next one is made
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.scale, ctx.weight_dtype = _scale(narrow.dtype), weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_output: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        # In place, since a copy of the weight gradient would be larger than a block; autograd
        # refuses to hand out the changed tensors a second time.
        factor = grad_output / ctx.scale
        grad_hidden, grad_weight = (
            None if grad is None else grad.mul_(factor) for grad in ctx.saved_tensors
        )
        if grad_weight is not None:
            grad_weight = grad_weight.to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None


def _add_product(total: Tensor, block: Tensor, hidden: Tensor) -> None:
    """Add block^T hidden to the weight gradient, each product of a piece rounded once."""
    if total.dtype == block.dtype:
        total.addmm_(block.t(), hidden)
        return
    for start in range(0, len(total), _VOCAB_PIECE):
        piece = slice(start, start + _VOCAB_PIECE)
        total[piece] += block[:, piece].t() @ hidden


# -------------------------------------------------------------------------------------------------
# The loss of a linear head by the Triton kernel of liger-kernel, for training on a GPU.
#
# The same sum as `linear_cross_entropy`; the softmax and its gradient are one kernel per block of
# rows. The only module that imports the package, when the kernel is chosen.
# Source: liger-kernel 0.8.5, liger_kernel/ops/fused_linear_cross_entropy.py.
# -------------------------------------------------------------------------------------------------

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
