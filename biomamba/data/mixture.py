"""The shares of the sources, constant or changing in stages, and the rows that meet them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from biomamba.data.budget import TokenBudget
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_number, check_whole

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
            ConfigError: If a stage does not begin with a step of the run.
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
