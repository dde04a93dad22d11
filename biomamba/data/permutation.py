"""A keyed random order of 0..n-1 with random access and no memory."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8


class FeistelPermutation:
    """A bijection of 0..size-1 chosen by a key.

    A Feistel network permutes the next power of two; values beyond `size` walk on along their
    cycle until they fall inside, which keeps the whole a bijection.

    Source: Black and Rogaway, Ciphers with Arbitrary Finite Domains (CT-RSA 2002), sections 3, 4;
    used for data order by stanford-crfm/levanter, data/_prp.py.

    Args:
        size: Number of elements, at least 1.
        key: Anything; its text selects the order.
    """

    def __init__(self, size: int, *key: object) -> None:
        if size < 1:
            raise ValueError(f"size must be 1 or more, got {size}")
        self.size = size
        bits = max(2, (size - 1).bit_length())
        self._low_bits = np.uint64(bits // 2)
        self._low_mask = np.uint64((1 << (bits // 2)) - 1)
        self._high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
        name = "\0".join(str(part) for part in key).encode()
        digest = blake2b(name, digest_size=8 * _ROUNDS).digest()
        self._round_keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def __call__(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Map indices, each in 0..size-1, to their places in the random order."""
        value = self._permute(index.astype(np.uint64))
        outside = value >= self.size
        while outside.any():
            value[outside] = self._permute(value[outside])
            outside = value >= self.size
        return value.astype(np.int64)

    def _permute(self, value: NDArray[np.uint64]) -> NDArray[np.uint64]:
        low, high = value & self._low_mask, value >> self._low_bits
        # The halves may differ by a bit, so they take turns instead of being swapped.
        for number, key in enumerate(self._round_keys):
            if number % 2:
                high = high ^ (_mix(low, key) & self._high_mask)
            else:
                low = low ^ (_mix(high, key) & self._low_mask)
        return (high << self._low_bits) | low


def _mix(value: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """Hash 64 bits. Source: the finalizer of splitmix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    mixed = value ^ key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
