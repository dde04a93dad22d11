"""Token budget, shares of the sources, and which row of which source is sample i."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_number, check_seed, check_whole

# -------------------------------------------------------------------------------------------------
# How many steps a token budget makes, exactly.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenBudget:
    """The size of a run; every division must come out even.

    A token here is a position of a row, padding included.

    Attributes:
        max_tokens: Positions of the whole run.
        tokens_per_step: Positions of one optimizer step over all ranks.
        seq_len: Positions of a row.
        micro_batch_size: Rows per rank in one forward pass.
    """

    max_tokens: int
    tokens_per_step: int
    seq_len: int
    micro_batch_size: int

    def __post_init__(self) -> None:
        for name in ("max_tokens", "tokens_per_step", "seq_len", "micro_batch_size"):
            check_whole(name, getattr(self, name))
        _check_divides("tokens_per_step", self.tokens_per_step, "seq_len", self.seq_len)
        _check_divides("max_tokens", self.max_tokens, "tokens_per_step", self.tokens_per_step)
        _check_divides(
            "sequences per step (tokens_per_step / seq_len)",
            self.sequences_per_step,
            "micro_batch_size",
            self.micro_batch_size,
        )

    @property
    def sequences_per_step(self) -> int:
        """Rows of one optimizer step over all ranks."""
        return self.tokens_per_step // self.seq_len

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.max_tokens // self.tokens_per_step

    def accumulation(self, world_size: int) -> int:
        """Return the micro-batches that each rank adds up in one step.

        Raises:
            ConfigError: If the rows of a step cannot be dealt out evenly.
        """
        rows_at_once = world_size * self.micro_batch_size
        if self.sequences_per_step % rows_at_once:
            near = _neighbours(self.sequences_per_step, rows_at_once)
            tokens = " or ".join(f"{rows * self.seq_len:,}" for rows in near)
            raise ConfigError(
                f"tokens_per_step={self.tokens_per_step:,} is {self.sequences_per_step} rows of "
                f"seq_len={self.seq_len}; world_size={world_size} times "
                f"micro_batch_size={self.micro_batch_size} = {rows_at_once} rows does not divide "
                f"it. Set tokens_per_step to {tokens}, or change micro_batch_size"
            )
        return self.sequences_per_step // rows_at_once


def _check_divides(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if value % divisor:
        near = " or ".join(f"{number:,}" for number in _neighbours(value, divisor))
        raise ConfigError(
            f"{name} = {value:,} is no multiple of {divisor_name} = {divisor:,}; "
            f"nearest that work: {near}"
        )


def _neighbours(value: int, divisor: int) -> list[int]:
    below = value // divisor * divisor
    return [number for number in (below, below + divisor) if number > 0]


# -------------------------------------------------------------------------------------------------
# A keyed random order of 0..n-1 with random access and no memory.
# -------------------------------------------------------------------------------------------------

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


# -------------------------------------------------------------------------------------------------
# The shares of the sources, constant or changing in stages, and the rows that meet them.
# -------------------------------------------------------------------------------------------------

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
class Stage:
    """Weights that replace the earlier ones from some point of the run on.

    Attributes:
        start_tokens: Positions of the run before the stage, counted as in the budget.
        weights: Share of each source, as in Mixture.
    """

    start_tokens: int
    weights: dict[str, float]

    def __post_init__(self) -> None:
        # The weights of the mixture itself hold from token 0 on.
        check_whole("start_tokens", self.start_tokens)
        _check_weights(self.weights)


@dataclass(frozen=True)
class Mixture:
    """The shares of the sources.

    Attributes:
        weights: Share of each source; they sum to 1. Zero keeps a source for validation only.
        unit: What the shares count: `tokens` (without padding), `sequences` (rows), `documents`.
        block_size: Rows after which the shares are met exactly.
        stages: Further weights of the same sources, in order; none leaves the weights constant.

    Source: block-deterministic mixtures as in stanford-crfm/levanter, data/mixture.py, and its
        weights that change at given steps.
    Deviation: the released code of arXiv 2408.02600 shares out documents, one to a row.
    """

    weights: dict[str, float]
    unit: str = "tokens"
    block_size: int = 1_000
    stages: list[Stage] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ConfigError(f"unit is {self.unit!r}; allowed: {', '.join(UNITS)}")
        check_whole("block_size", self.block_size)
        _check_weights(self.weights)
        starts = [stage.start_tokens for stage in self.stages]
        if starts != sorted(set(starts)):
            raise ConfigError(f"start_tokens of the stages must increase, got {starts}")
        for stage in self.stages:
            if stage.weights.keys() != self.weights.keys():
                raise ConfigError(
                    f"the stage from start_tokens={stage.start_tokens:,} weighs the sources "
                    f"{sorted(stage.weights)}, the mixture {sorted(self.weights)}; name the same "
                    "in both and give weight 0 to a source that a stage leaves out"
                )

    @property
    def parts(self) -> list["Mixture"]:
        """The constant mixtures that follow each other; one alone without stages."""
        later = [replace(self, weights=stage.weights, stages=[]) for stage in self.stages]
        return [replace(self, stages=[]), *later]

    def trains_on(self, source: str) -> bool:
        """Say whether a source has a share at any time."""
        return any(part.weights[source] > 0 for part in self.parts)

    def start_steps(self, budget: TokenBudget) -> list[int]:
        """Return the first step of each part.

        Raises:
            ConfigError: If a stage does not start with a step of the run.
        """
        for stage in self.stages:
            start, step = stage.start_tokens, budget.tokens_per_step
            if start % step or start >= budget.max_tokens:
                raise ConfigError(
                    f"a stage has start_tokens={start:,}; it must be a multiple of "
                    f"tokens_per_step={step:,} below max_tokens={budget.max_tokens:,}; nearest "
                    f"that works: {_nearest_start(start, budget)}"
                )
        return [0, *(stage.start_tokens // budget.tokens_per_step for stage in self.stages)]

    def mean_weights(self, budget: TokenBudget) -> dict[str, float]:
        """Return the weights of the parts averaged over the steps of the run."""
        bounds = [*self.start_steps(budget), budget.num_steps]
        lengths = np.diff(bounds) / budget.num_steps
        return {
            name: float(sum(lengths * [part.weights[name] for part in self.parts]))
            for name in self.weights
        }

    def description(self) -> dict[str, Any]:
        """Return all that decides the shares, as plain values; constant ones know no stages."""
        fields = asdict(self)
        return fields if self.stages else {k: v for k, v in fields.items() if k != "stages"}

    def counts(self, sizes: Mapping[str, SourceSize]) -> dict[str, int]:
        """Return the rows of each source in a block of a constant mixture.

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


def _check_weights(weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        check_number(f"weights.{name}", weight, at_least=0)
    total = sum(weights.values())
    if abs(total - 1) > _WEIGHT_TOLERANCE:
        raise ConfigError(f"weights sum to {total:.10g}, not to 1: {weights}")


def _nearest_start(start_tokens: int, budget: TokenBudget) -> str:
    last = budget.num_steps - 1
    step = min(max(1, round(start_tokens / budget.tokens_per_step)), last)
    return f"{step * budget.tokens_per_step:,}" if last else "none, the run has one step"


def _largest_remainder(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Share out `total` whole rows in proportion to weights (Hamilton's method)."""
    names: Sequence[str] = list(weights)
    exact = np.array([weights[name] for name in names]) * total / sum(weights.values())
    counts = np.floor(exact).astype(np.int64)
    missing = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


# -------------------------------------------------------------------------------------------------
# Which row of which source is sample i: a pure function of the mixture, the seed and i.
#
# Nothing has to be saved to resume, and any rank or worker can look up any sample.
# -------------------------------------------------------------------------------------------------

Ints = NDArray[np.int64]


class MixedRows:
    """The endless stream of training rows.

    Every part of the mixture starts a block of its own, and its last block ends with it. A source
    continues where it was, so its epochs run over the borders of the parts.

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
