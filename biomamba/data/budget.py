"""How many steps a token budget makes, exactly."""

from dataclasses import dataclass

from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_whole


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
