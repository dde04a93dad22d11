"""Products of a few rows with a large matrix, as generation needs them for every token.

Such a product reads each weight once, so the speed of memory decides. On a CPU the BLAS library
runs it on one core, and from a matrix laid out (outputs, inputs) at half that core's speed. Here
the inputs are cut into one part per thread, whose products run side by side and are then added.
Half precision has a library that does so by itself.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


class ThinProduct:
    """`F.linear(x, weight)` for x (rows, inputs) with few rows and a weight that stays.

    Args:
        weight: (outputs, inputs); read at every call, never written.
        shares_memory: On a CPU, lay the weight out anew (inputs first) and make `weight` a view of
            it, so that the numbers are held once. Otherwise they are held a second time.
        dtype: Of the product and of a copy of the weight; None for that of the weight, no copy.
    """

    def __init__(
        self, weight: Tensor, *, shares_memory: bool, dtype: torch.dtype | None = None
    ) -> None:
        self._weight = weight.detach().to(dtype)
        self._parts: Tensor | None = None
        is_wide = self._weight.dtype in (torch.float32, torch.float64)
        if weight.device.type != "cpu" or not is_wide:
            return
        transposed = self._weight.t().contiguous()
        if shares_memory:
            weight.data = transposed.t()
            self._weight = weight.detach()
        count = _num_parts(weight.shape[1])
        self._parts = transposed.view(count, -1, weight.shape[0])

    def __call__(self, x: Tensor) -> Tensor:
        """Return (rows, outputs)."""
        if self._parts is None:
            return F.linear(x.to(self._weight.dtype), self._weight)
        if len(self._parts) == 1:
            return x @ self._parts[0]
        return torch.bmm(x.view(len(x), len(self._parts), -1).transpose(0, 1), self._parts).sum(0)


def _num_parts(inputs: int) -> int:
    """Return the largest number of equal parts up to the number of threads."""
    return next(n for n in range(torch.get_num_threads(), 0, -1) if inputs % n == 0)
