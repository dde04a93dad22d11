"""The set of document keys against a plain Python set."""

import numpy as np

from biomamba.data.key_set import KeySet


def test_take_new_agrees_with_a_python_set() -> None:
    generator = np.random.default_rng(0)
    keys, seen = KeySet(), set()
    for size in (0, 1, 7, 100, 3, 250):
        batch = generator.integers(0, 300, size=size, dtype=np.uint64)
        expected = []
        for key in batch.tolist():
            expected.append(key not in seen)
            seen.add(key)
        assert keys.take_new(batch).tolist() == expected
    assert len(keys) == len(seen)


def test_the_largest_key_is_found() -> None:
    keys = KeySet()
    largest = np.array([2**64 - 1], dtype=np.uint64)
    keys.add(largest)
    assert keys.contains(largest).tolist() == [True]
    assert keys.contains(largest - np.uint64(1)).tolist() == [False]


def test_runs_are_merged_so_that_few_stay() -> None:
    keys = KeySet()
    for number in range(256):
        keys.add(np.array([number], dtype=np.uint64))
    assert len(keys._runs) == 1
