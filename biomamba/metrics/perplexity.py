"""Token-weighted negative log-likelihood, perplexity and bits per byte.

Sums are kept and divided once at the end, so the figures do not depend on how the text was cut
into batches or spread over ranks. A mean of batch means would.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric


def perplexity(nll_sum: float, num_tokens: int) -> float:
    """Return exp(nats per token); nan without tokens, inf where exp overflows."""
    if num_tokens == 0:
        return math.nan
    try:
        return math.exp(nll_sum / num_tokens)
    except OverflowError:
        return math.inf


def perplexity_of_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return exp(nats per token) of each row of sums (rows, k): nll and tokens come first.

    It is inf where exp overflows.
    """
    with np.errstate(over="ignore"):
        return np.exp(sums[:, 0] / sums[:, 1])


def bits_per_byte(nll_sum: float, num_bytes: int) -> float:
    """Return the code length in bits per UTF-8 byte of text; nan without bytes.

    Comparable between tokenizers, which perplexity per token is not.
    """
    return nll_sum / (math.log(2) * num_bytes) if num_bytes else math.nan


class TokenNll(Metric):
    """Sums of nll (nats), scored tokens and text bytes over batches and ranks."""

    full_state_update = False
    nll_sum: Tensor
    num_tokens: Tensor
    num_bytes: Tensor

    def __init__(self) -> None:
        super().__init__()
        zero = torch.tensor(0, dtype=torch.int64)
        self.add_state("nll_sum", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_tokens", zero, dist_reduce_fx="sum")
        self.add_state("num_bytes", zero.clone(), dist_reduce_fx="sum")

    def update(self, nll_sum: Tensor, num_tokens: Tensor, num_bytes: Tensor) -> None:
        """Add one batch's totals."""
        # Not in place: after a reset in inference mode the states are inference tensors, which
        # refuse changes outside of it.
        self.nll_sum = self.nll_sum + nll_sum.double()
        self.num_tokens = self.num_tokens + num_tokens
        self.num_bytes = self.num_bytes + num_bytes

    def compute(self) -> dict[str, float]:
        """Return nll (nats per token), perplexity and bits_per_byte."""
        nll_sum, num_tokens = float(self.nll_sum), int(self.num_tokens)
        return {
            "nll": nll_sum / num_tokens if num_tokens else math.nan,
            "perplexity": perplexity(nll_sum, num_tokens),
            "bits_per_byte": bits_per_byte(nll_sum, int(self.num_bytes)),
        }
