"""Random states as tensors and plain values."""

import random
from pathlib import Path

import numpy as np
import torch

from biomamba.runtime.random_state import load_rng_state, rng_state


def draw() -> tuple[float, float, float, float]:
    """Draw from each source of chance; the second gauss of Python and numpy is held in store."""
    normal = np.random.standard_normal()  # noqa: NPY002
    return random.random(), random.gauss(0, 1), float(normal), float(torch.rand(()))


def test_the_same_numbers_come_after_a_state_that_went_through_a_safe_file(tmp_path: Path) -> None:
    draw()
    torch.save(rng_state(), tmp_path / "state")
    wanted = [draw() for _ in range(5)]
    load_rng_state(torch.load(tmp_path / "state", weights_only=True))
    assert [draw() for _ in range(5)] == wanted


def test_a_state_stays_as_it_was_while_numbers_are_drawn() -> None:
    state = rng_state()
    wanted = draw()
    draw()
    load_rng_state(state)
    assert draw() == wanted
