"""Which row of which source is sample i: a pure function of the mixture, the seed and i.

Nothing has to be saved to resume, and any rank or worker can look up any sample.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from biomamba.data.mixture import Mixture, SourceSize
from biomamba.data.permutation import FeistelPermutation
from biomamba.runtime.numbers import check_seed

Ints = NDArray[np.int64]


class MixedRows:
    """The endless stream of training rows.

    Every part of the mixture begins a block of its own, and its last block ends with it. A source
    goes on where it stood, so its epochs run over the borders of the parts.

    Args:
        mixture: The shares.
        sizes: Size of every source; the order of the mapping numbers the sources.
        seed: Selects the order.
        first_samples: First sample of each part of the mixture.
    """

    def __init__(
        self,
        mixture: Mixture,
        sizes: Mapping[str, SourceSize],
        seed: int,
        first_samples: Sequence[int] = (0,),
    ) -> None:
        check_seed("seed", seed)
        if len(first_samples) != len(mixture.parts):
            raise ValueError(f"{len(mixture.parts)} parts need as many starts: {first_samples}")
        self._mixture, self._sizes, self._seed = mixture, dict(sizes), seed
        self._names = list(sizes)
        self._num_rows = [sizes[name].num_rows for name in self._names]
        self._first_samples = np.array(first_samples, dtype=np.int64)
        self._drawn = np.zeros((len(first_samples), len(sizes)), dtype=np.int64)
        self._parts: list[_Part] = []
        self._order = lru_cache(maxsize=64)(self._make_order)
        first_block = 0
        for index, part in enumerate(mixture.parts):
            counts = part.counts(sizes)
            in_block = np.array([counts[name] for name in self._names], dtype=np.int64)
            self._parts.append(_Part(in_block, seed, first_block))
            if index + 1 < len(first_samples):
                num_samples = first_samples[index + 1] - first_samples[index]
                first_block += -(-num_samples // part.block_size)
                self._drawn[index + 1] = self._drawn[index] + self._parts[index].drawn(num_samples)

    def __reduce__(self) -> tuple[type["MixedRows"], tuple[object, ...]]:
        """Pickle without the caches."""
        return MixedRows, (self._mixture, self._sizes, self._seed, self._first_samples.tolist())

    def locate(self, sample: int) -> tuple[int, int, int]:
        """Return (source, row, epoch) of one sample."""
        source, row, epoch = self.locate_many(np.array([sample], dtype=np.int64))
        return int(source[0]), int(row[0]), int(epoch[0])

    def locate_many(self, samples: Ints) -> tuple[Ints, Ints, Ints]:
        """Return the sources, the rows in them and the epochs of samples; each (samples,)."""
        source, drawn = np.empty_like(samples), np.empty_like(samples)
        part = self._part_of(samples)
        for index in np.unique(part):
            here = part == index
            found, before = self._parts[index].locate(samples[here] - self._first_samples[index])
            source[here], drawn[here] = found, before + self._drawn[index, found]
        row, epoch = np.empty_like(samples), np.empty_like(samples)
        for index in np.unique(source):
            mine = source == index
            epoch[mine], within = np.divmod(drawn[mine], self._num_rows[index])
            row[mine] = self._shuffled(int(index), epoch[mine], within)
        return source, row, epoch

    def rows_drawn(self, num_samples: int) -> dict[str, int]:
        """Count the rows of each source among the first samples."""
        index = int(self._part_of(np.array([num_samples])).item())
        in_part = self._parts[index].drawn(num_samples - int(self._first_samples[index]))
        return dict(zip(self._names, (self._drawn[index] + in_part).tolist(), strict=True))

    def _part_of(self, samples: Ints) -> Ints:
        return np.searchsorted(self._first_samples, samples, side="right") - 1

    def _shuffled(self, index: int, epochs: Ints, within: Ints) -> Ints:
        rows = np.empty_like(within)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._order(index, int(epoch))(within[here])
        return rows

    def _make_order(self, index: int, epoch: int) -> FeistelPermutation:
        key = ("source", self._seed, self._names[index], epoch)
        return FeistelPermutation(self._num_rows[index], *key)


class _Part:
    """The blocks of one constant mixture.

    Args:
        counts: (sources,); rows of each source in a block.
        seed: Selects the order in the blocks.
        first_block: Number of the first block among those of all parts.
    """

    def __init__(self, counts: Ints, seed: int, first_block: int) -> None:
        self._counts = counts
        self._seed = seed
        self._first_block = first_block
        self._block_size = int(counts.sum())
        self._layout = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        self._row_counts = counts[self._layout]
        self._occurrence = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
        self._block = lru_cache(maxsize=256)(self._make_block)

    def locate(self, samples: Ints) -> tuple[Ints, Ints]:
        """Return the sources of samples of the part, and how often each was drawn before."""
        block, position = np.divmod(samples, self._block_size)
        source, occurrence = np.empty_like(samples), np.empty_like(samples)
        for number in np.unique(block):
            here = block == number
            sources, occurrences = self._block(int(number))
            source[here] = sources[position[here]]
            occurrence[here] = occurrences[position[here]]
        return source, block * self._counts[source] + occurrence

    def drawn(self, num_samples: int) -> Ints:
        """Count the rows of each source among the first samples of the part; (sources,)."""
        blocks, rest = divmod(num_samples, self._block_size)
        sources, _ = self._block(blocks)
        return blocks * self._counts + np.bincount(sources[:rest], minlength=len(self._counts))

    def _make_block(self, number: int) -> tuple[Ints, Ints]:
        """Return the source at each position of a block and how often it came before there.

        The k-th of the n rows of a source falls at random into the k-th n-th of the block, so
        that every part of a block, not only the whole, holds the shares to about a row.
        """
        # Raw bits of Philox are stable over numpy versions, unlike its distributions.
        key = [self._seed, self._first_block + number]
        bits = np.random.Philox(key=key).random_raw(self._block_size)
        places = (self._occurrence + bits / 2.0**64) / self._row_counts
        order = np.argsort(places, kind="stable")
        return self._layout[order], self._occurrence[order]
