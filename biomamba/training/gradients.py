"""Sums and the norm of gradients, without a trace of the order in which they were added.

A sum of float32 numbers depends on its order, so on how the rows of a step are dealt out to
micro-batches and ranks. In float64 the difference falls below half a bit of float32: a run on
another number of ranks then computes the same gradients, also where bfloat16 products would carry
a difference of one bit on (a weight that rounds to another bfloat16 changes by 0.4 %).
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

SUM_DTYPES = {"float32": torch.float32, "float64": torch.float64}

Reduce = Callable[[Tensor], Tensor]
# Sums that are sent between ranks together: 128 MB, and as much again for a copy of them.
_ELEMENTS_AT_ONCE = 2**24


class GradientSums:
    """Gradients of several backward passes and ranks, added up in float64.

    Takes 8 bytes per trained parameter beside the gradients of one pass.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        sizes = [p.numel() for p in self._parameters]
        device = self._parameters[0].device
        self._flat = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        self._sums = torch.split(self._flat, sizes)
        self._has_gradient = [False for _ in sizes]

    def clear(self) -> None:
        """Begin a step."""
        self._flat.zero_()
        self._has_gradient = [False for _ in self._sums]

    def take(self) -> None:
        """Add the gradients of a backward pass and remove them from the parameters."""
        for number, parameter in enumerate(self._parameters):
            if parameter.grad is not None:
                self._sums[number].add_(parameter.grad.flatten())
                parameter.grad = None
                self._has_gradient[number] = True

    def give(self, reduce: Reduce) -> None:
        """Make the sums over all ranks the gradients of the parameters.

        `reduce` sums a tensor over the ranks. A parameter that no pass reached, on all ranks
        alike, stays without a gradient.
        """
        for part in torch.split(self._flat, _ELEMENTS_AT_ONCE):
            part.copy_(reduce(part))
        found = zip(self._parameters, self._sums, self._has_gradient, strict=True)
        for parameter, total, has_gradient in found:
            if has_gradient:
                parameter.grad = total.view_as(parameter).to(parameter.dtype)


def global_norm(gradients: Sequence[Tensor], reduce: Reduce) -> Tensor:
    """Return the norm of all gradients as float32, whole or dealt out in shards.

    `reduce` sums a tensor over the ranks; it is used for shards only.
    """
    if not gradients:
        return torch.tensor(0.0)
    norms = [torch.linalg.vector_norm(own_part(g), dtype=torch.float64) for g in gradients]
    square = torch.stack(norms).square().sum()
    if isinstance(gradients[0], DTensor):
        square = reduce(square)
    return square.sqrt().float()


def clip(gradients: Sequence[Tensor], norm: Tensor, max_norm: float) -> None:
    """Scale gradients in place so that their norm is at most max_norm.

    A norm that is not finite makes them nan, as torch's clip_grad_norm_ does.
    """
    factor = (max_norm / (norm.double() + 1e-6)).clamp(max=1.0).float()
    for gradient in gradients:
        own_part(gradient).mul_(factor.to(gradient.device))


def own_part(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor; the storage is shared."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
