"""Which row of which source is sample i: a pure function of the mixture, the seed and i.

Nothing has to be saved to resume, and any rank or worker can look up any sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from biomamba.data.permutation import FeistelPermutation
from biomamba.runtime.errors import ConfigError, DataError

Ints = NDArray[np.int64]
UNITS = ("tokens", "sequences", "documents")
MAX_SHARE_ERROR = 0.005
_WEIGHT_TOLERANCE = 1e-9
_MAX_BLOCK_SIZE = 10_000


@dataclass(frozen=True)
class SourceSize:
    """What one source offers per epoch: rows, tokens without padding, documents."""

    num_rows: int
    num_tokens: int
    num_documents: int

    def per_row(self, unit: str) -> float:
        """Return the mean of a unit in a row."""
        amount = {
            "tokens": self.num_tokens,
            "sequences": self.num_rows,
            "documents": self.num_documents,
        }[unit]
        return amount / self.num_rows


@dataclass(frozen=True)
class Mixture:
    """The shares of the sources.

    Attributes:
        weights: Share of each source; they sum to 1. Zero keeps a source for validation only.
        unit: What the shares count: `tokens` (without padding), `sequences` (rows), `documents`.
        block_size: Rows after which the shares are met exactly.

    Source: block-deterministic mixtures as in stanford-crfm/levanter, data/mixture.py.
    Deviation: the released code of arXiv 2408.02600 shares out documents, one to a row.
    """

    weights: dict[str, float]
    unit: str = "tokens"
    block_size: int = 1_000

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ConfigError(f"unit is {self.unit!r}; allowed: {', '.join(UNITS)}")
        if self.block_size < 1:
            raise ConfigError(f"block_size is {self.block_size}; use 1 or more")
        negative = {name: weight for name, weight in self.weights.items() if not weight >= 0}
        if negative:
            raise ConfigError(f"weights must not be negative, got {negative}")
        total = sum(self.weights.values())
        if abs(total - 1) > _WEIGHT_TOLERANCE:
            raise ConfigError(f"weights sum to {total:.10g}, not to 1: {self.weights}")

    def counts(self, sizes: Mapping[str, SourceSize]) -> dict[str, int]:
        """Return the rows of each source in a block.

        Raises:
            ConfigError: If rounding moves a share by more than MAX_SHARE_ERROR; it names a block
                size that works.
            DataError: If a source with a share has no training rows.
        """
        used = {name: weight for name, weight in self.weights.items() if weight > 0}
        empty = sorted(name for name in used if sizes[name].num_rows == 0)
        if empty:
            raise DataError(f"sources {empty} have no training rows, but a weight above 0")
        rows = {name: weight / sizes[name].per_row(self.unit) for name, weight in used.items()}
        counts = _largest_remainder(rows, self.block_size)
        if not self._is_close(counts, sizes):
            raise ConfigError(self._advice(rows, counts, sizes))
        return {name: counts.get(name, 0) for name in self.weights}

    def shares(
        self, counts: Mapping[str, int], sizes: Mapping[str, SourceSize]
    ) -> dict[str, float]:
        """Return the share of each source in the unit, given its rows in a block."""
        amounts = {name: count * sizes[name].per_row(self.unit) for name, count in counts.items()}
        return {name: amount / sum(amounts.values()) for name, amount in amounts.items()}

    def _is_close(self, counts: Mapping[str, int], sizes: Mapping[str, SourceSize]) -> bool:
        shares = self.shares(counts, sizes)
        return all(
            count > 0 and abs(shares[name] - self.weights[name]) <= MAX_SHARE_ERROR
            for name, count in counts.items()
        )

    def _advice(
        self,
        rows: Mapping[str, float],
        counts: Mapping[str, int],
        sizes: Mapping[str, SourceSize],
    ) -> str:
        shares = {name: round(share, 4) for name, share in self.shares(counts, sizes).items()}
        works = next(
            (
                size
                for size in range(self.block_size + 1, _MAX_BLOCK_SIZE + 1)
                if self._is_close(_largest_remainder(rows, size), sizes)
            ),
            None,
        )
        advice = f"block_size={works} works" if works else "no block size up to 10000 works"
        return (
            f"block_size={self.block_size} rows gives shares {shares} of {self.unit} instead of "
            f"{self.weights}, off by more than {MAX_SHARE_ERROR}; {advice}"
        )


class MixedRows:
    """The endless stream of training rows.

    Args:
        mixture: The shares.
        sizes: Size of every source; the order of the mapping numbers the sources.
        seed: Selects the order.
    """

    def __init__(self, mixture: Mixture, sizes: Mapping[str, SourceSize], seed: int) -> None:
        if seed < 0:
            raise ConfigError(f"seed is {seed}; use 0 or more")
        self._mixture, self._sizes, self._seed = mixture, dict(sizes), seed
        self._block_size = mixture.block_size
        self._names = list(sizes)
        self._num_rows = [sizes[name].num_rows for name in self._names]
        self.counts = mixture.counts(sizes)
        counts = np.array([self.counts[name] for name in self._names], dtype=np.int64)
        self._layout = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        self._row_counts = counts[self._layout]
        self._occurrence = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
        self._block = lru_cache(maxsize=256)(self._make_block)
        self._order = lru_cache(maxsize=64)(self._make_order)

    def __reduce__(self) -> tuple[type["MixedRows"], tuple[object, ...]]:
        """Pickle without the caches."""
        return MixedRows, (self._mixture, self._sizes, self._seed)

    def locate(self, sample: int) -> tuple[int, int, int]:
        """Return (source, row, epoch) of one sample."""
        source, row, epoch = self.locate_many(np.array([sample], dtype=np.int64))
        return int(source[0]), int(row[0]), int(epoch[0])

    def locate_many(self, samples: Ints) -> tuple[Ints, Ints, Ints]:
        """Return the sources, the rows in them and the epochs of samples; each (samples,)."""
        block, position = np.divmod(samples, self._block_size)
        source = np.empty_like(samples)
        row, epoch = np.empty_like(samples), np.empty_like(samples)
        occurrence = np.empty_like(samples)
        for number in np.unique(block):
            here = block == number
            sources, occurrences = self._block(int(number))
            source[here] = sources[position[here]]
            occurrence[here] = occurrences[position[here]]
        for index in np.unique(source):
            mine = source == index
            drawn = block[mine] * self.counts[self._names[index]] + occurrence[mine]
            epoch[mine], within = np.divmod(drawn, self._num_rows[index])
            row[mine] = self._shuffled(int(index), epoch[mine], within)
        return source, row, epoch

    def rows_drawn(self, num_samples: int) -> dict[str, int]:
        """Count the rows of each source among the first samples."""
        blocks, rest = divmod(num_samples, self._block_size)
        sources, _ = self._block(blocks)
        in_rest = np.bincount(sources[:rest], minlength=len(self._names))
        return {
            name: blocks * self.counts[name] + int(in_rest[index])
            for index, name in enumerate(self._names)
        }

    def _shuffled(self, index: int, epochs: Ints, within: Ints) -> Ints:
        rows = np.empty_like(within)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._order(index, int(epoch))(within[here])
        return rows

    def _make_order(self, index: int, epoch: int) -> FeistelPermutation:
        key = ("source", self._seed, self._names[index], epoch)
        return FeistelPermutation(self._num_rows[index], *key)

    def _make_block(self, number: int) -> tuple[Ints, Ints]:
        """Return the source at each position of a block and how often it came before there.

        The k-th of the n rows of a source falls at random into the k-th n-th of the block, so
        that every part of a block, not only the whole, holds the shares to about a row.
        """
        # Raw bits of Philox are stable over numpy versions, unlike its distributions.
        bits = np.random.Philox(key=[self._seed, number]).random_raw(self._block_size)
        places = (self._occurrence + bits / 2.0**64) / self._row_counts
        order = np.argsort(places, kind="stable")
        return self._layout[order], self._occurrence[order]


def _largest_remainder(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Share out `total` whole rows in proportion to weights (Hamilton's method)."""
    names: Sequence[str] = list(weights)
    exact = np.array([weights[name] for name in names]) * total / sum(weights.values())
    counts = np.floor(exact).astype(np.int64)
    missing = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return {name: int(count) for name, count in zip(names, counts, strict=True)}
