"""One seed for every source of chance in a process."""

import random

import numpy as np
import torch

from biomamba.runtime.numbers import check_seed


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (CPU and every GPU) of this process.

    All ranks take the same seed, so that they build the same weights; what must differ between
    ranks (data order, sampling) is drawn from generators of its own, keyed by position.

    Raises:
        ConfigError: the seed does not fit in 32 bits.
    """
    check_seed("seed", seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # libraries still draw from the global generator
    torch.manual_seed(seed)
