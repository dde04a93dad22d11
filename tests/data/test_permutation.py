"""The Feistel permutation."""

import numpy as np
import pytest

from biomamba.data.mixture import FeistelPermutation


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 100, 127, 128, 129, 1000, 65_537])
def test_it_is_a_bijection(size: int) -> None:
    images = FeistelPermutation(size, "key")(np.arange(size))
    assert np.array_equal(np.sort(images), np.arange(size))


def test_single_indices_agree_with_the_whole_order() -> None:
    order = FeistelPermutation(1000, 7)
    whole = order(np.arange(1000))
    assert [int(order(np.array([i]))[0]) for i in (0, 999, 500)] == whole[[0, 999, 500]].tolist()


def test_keys_select_unrelated_orders() -> None:
    first = FeistelPermutation(10_000, "source", 1)(np.arange(10_000))
    second = FeistelPermutation(10_000, "source", 2)(np.arange(10_000))
    # Two random orders agree in one place on average; ten is beyond 1e-7.
    assert np.count_nonzero(first == second) < 10


def test_an_order_looks_shuffled() -> None:
    images = FeistelPermutation(10_000, "key")(np.arange(10_000))
    assert abs(np.corrcoef(images, np.arange(10_000))[0, 1]) < 0.05
    # A random order has neighbors in ascending order half of the time, sd 0.003.
    assert abs(np.mean(np.diff(images) > 0) - 0.5) < 0.015


def test_the_order_is_pinned() -> None:
    # A changed order would silently change what a resumed run has already seen.
    assert FeistelPermutation(10, "pinned", 1)(np.arange(10)).tolist() == [
        6,
        9,
        8,
        5,
        0,
        3,
        4,
        7,
        1,
        2,
    ]


def test_no_elements_are_refused() -> None:
    with pytest.raises(ValueError, match="size must be 1 or more, got 0"):
        FeistelPermutation(0)
