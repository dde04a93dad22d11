"""One seed for all generators."""

import random

import numpy as np
import pytest
import torch

from biomamba.runtime.numbers import MAX_SEED
from biomamba.runtime.random_state import seed_everything


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_same_seed_gives_the_same_numbers() -> None:
    seed_everything(7)
    first = draw()
    seed_everything(7)

    assert draw() == first


def test_other_seed_gives_other_numbers_everywhere() -> None:
    seed_everything(7)
    first = draw()
    seed_everything(8)

    assert all(a != b for a, b in zip(draw(), first, strict=True))


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"found {seed}"):
        seed_everything(seed)
