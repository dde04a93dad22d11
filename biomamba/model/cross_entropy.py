"""Cross-entropy of a linear head without ever holding the full logits.

Rows are scored in chunks, and the gradient of a chunk is computed while its logits are there: one
pass, memory for `chunk_rows` rows of logits, sums in float32 (float64 for float64 inputs). Rows
whose target is -100 are not computed at all.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from biomamba.model.norm import product_dtype
from biomamba.model.ssd import state_dtype

IGNORED_TARGET = -100

# Softmax entries over a large vocabulary lie below the normal range of fp16 (6e-5); scaled they
# keep their digits, and the sum over 512 rows that agree on one wrong word still fits its maximum.
_FP16_SCALE = 8.0


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk_rows: int = 512
) -> Tensor:
    """Return the summed nll in nats, a float32 scalar with gradients for hidden and weight.

    `hidden` (rows, d_model), `weight` (vocab, d_model), `targets` (rows,), -100 = ignored.

    Raises:
        ValueError: The shapes do not fit or chunk_rows is not positive.
    """
    _check(hidden, weight, targets, chunk_rows)
    needs = [torch.is_grad_enabled() and tensor.requires_grad for tensor in (hidden, weight)]
    total: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, chunk_rows, needs
    )
    return total


@torch.no_grad()
def token_nll(hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk_rows: int = 512) -> Tensor:
    """Return the nll in nats of each row, (rows,), without gradient; 0 where the target is -100.

    Arguments and errors as in `linear_cross_entropy`.
    """
    _check(hidden, weight, targets, chunk_rows)
    nll = hidden.new_zeros(targets.shape, dtype=state_dtype(hidden))
    for rows, h in _chunks(hidden, weight, targets, chunk_rows):
        logits = _logits(h, weight)
        nll[rows] = _row_nll(logits, targets[rows])
    return nll


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int) -> None:
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows={chunk_rows}: must be at least 1")
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


def _chunks(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the row numbers of each chunk of scored rows and their hidden vectors."""
    scored = (targets != IGNORED_TARGET).nonzero().squeeze(1)
    for rows in torch.split(scored, chunk_rows):
        if len(rows):
            yield rows, hidden[rows].to(product_dtype(weight))


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        logits = hidden @ weight.to(hidden.dtype).t()
    return logits.to(state_dtype(logits))


def _row_nll(logits: Tensor, targets: Tensor) -> Tensor:
    picked = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    return logits.logsumexp(1) - picked


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of nll; the gradients for a unit gradient are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk_rows: int,
        needs: list[bool],
    ) -> Tensor:
        wide = state_dtype(hidden)
        grad_hidden = torch.zeros_like(hidden, dtype=wide) if needs[0] else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs[1] else None
        total = hidden.new_zeros((), dtype=wide)
        narrow_weight = weight.to(product_dtype(weight))
        for rows, h in _chunks(hidden, weight, targets, chunk_rows):
            logits = _logits(h, narrow_weight)
            total += _row_nll(logits, targets[rows]).sum()
            if not any(needs):
                continue
            grad_logits, scale = _grad_logits(logits, targets[rows], h.dtype)
            with torch.autocast(h.device.type, enabled=False):
                if grad_hidden is not None:
                    grad_hidden[rows] = (grad_logits @ narrow_weight).to(wide) / scale
                if grad_weight is not None:
                    grad_weight += (grad_logits.t() @ h).to(wide) / scale
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_output: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grads = [
            None if grad is None else (grad * grad_output).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return grads[0], grads[1], None, None, None


def _grad_logits(logits: Tensor, targets: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Return scale * (softmax - one-hot) in `dtype`, overwriting the logits, and the scale."""
    grad = torch.softmax(logits, dim=1)
    grad[torch.arange(len(targets), device=targets.device), targets] -= 1.0
    scale = _FP16_SCALE if dtype == torch.float16 else 1.0
    return grad.mul_(scale).to(dtype), scale
