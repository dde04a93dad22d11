"""Seeds and random states of a process."""

import random
from typing import Any

import numpy as np
import torch

from biomamba.runtime.numbers import check_seed

# -------------------------------------------------------------------------------------------------
# One seed for every source of chance in a process.
# -------------------------------------------------------------------------------------------------


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


# -------------------------------------------------------------------------------------------------
# The random states of a process as tensors and plain values.
# -------------------------------------------------------------------------------------------------


def rng_state() -> dict[str, Any]:
    """Return the states of Python, numpy and torch (CPU and every GPU)."""
    version, words, gauss = random.getstate()
    drawn: Any = np.random.get_state()  # noqa: NPY002
    name, keys, position, has_gauss, cached = drawn
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def load_rng_state(state: dict[str, Any]) -> None:
    """Set the states that `rng_state` returned; GPUs only if there are as many."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy_state = (name, keys.numpy().astype(np.uint32), position, has_gauss, cached)
    np.random.set_state(numpy_state)  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
