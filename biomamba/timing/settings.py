"""What is measured, and how."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_number, check_whole

TRAIN, PREFILL, DECODE = "train", "prefill", "decode"
PHASES = (TRAIN, PREFILL, DECODE)
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
DEVICES = ("auto", "cpu", "cuda")
_WHAT = ("phases", "lengths", "batches")  # of the points; the rest says how each is measured


@dataclass(frozen=True)
class Point:
    """One phase at one size: rows of so many tokens at once."""

    phase: str
    batch: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return self.batch * self.length


@dataclass(frozen=True, kw_only=True)
class EfficiencySettings:
    """What is measured, and how.

    Attributes:
        phases: Some of `train` (a whole step), `prefill` (time to the first token) and `decode`
            (tokens behind a context).
        lengths: Tokens of a row; of the context in `decode`.
        batches: Rows at once; each with every length.
        repeats: Measurements of each point; the models take turns.
        warmup: Runs before them that do not count; the last one tells the memory.
        decode_tokens: New tokens per row of a measurement in `decode`.
        prefill_tokens: Positions that our model reads at once, as in biomamba.generate.
        precision: As trainer.precision.
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.
        threads: Of a CPU; null: as many as torch takes.
        memory_gib: Where memory ends; null: at that of the device.
        product_size: Side of the square matrices whose product is the peak.
    """

    phases: Sequence[str]
    lengths: Sequence[int]
    batches: Sequence[int]
    repeats: int = 5
    warmup: int = 1
    decode_tokens: int = 32
    prefill_tokens: int = 2_048
    precision: str = "32-true"
    device: str = "auto"
    threads: int | None = None
    memory_gib: float | None = None
    product_size: int = 2_048

    def __post_init__(self) -> None:
        for name, known in (("precision", PRECISIONS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be {' or '.join(known)}")
        for name in _WHAT:
            object.__setattr__(self, name, self._listed(name))
        if odd := [phase for phase in self.phases if phase not in PHASES]:
            raise ValueError(f"phases has {odd}: allowed are {', '.join(PHASES)}")
        sizes = ("repeats", "warmup", "decode_tokens", "prefill_tokens", "product_size", "threads")
        for name in sizes:
            check_whole(name, getattr(self, name), optional=name == "threads")
        check_number("memory_gib", self.memory_gib, above=0, optional=True)

    def _listed(self, name: str) -> tuple[Any, ...]:
        values = tuple(getattr(self, name))
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name}={list(values)}: must name at least one, and each once")
        if name == "phases":
            return tuple(phase for phase in PHASES if phase in values) + tuple(
                phase for phase in values if phase not in PHASES
            )
        for index, value in enumerate(values):
            check_whole(f"{name}[{index}]", value)
        return tuple(sorted(values))

    def points(self) -> list[Point]:
        """Return all points: phase by phase, from the shortest length to the longest."""
        return [
            Point(phase, batch, length)
            for phase in self.phases
            for batch in self.batches
            for length in self.lengths
        ]

    def conditions(self) -> dict[str, Any]:
        """Return what every point is measured under, as plain values."""
        return {key: value for key, value in asdict(self).items() if key not in _WHAT}

    def torch_device(self) -> torch.device:
        """Return the device.

        Raises:
            ConfigError: There is no GPU, or the precision needs one.
        """
        has_gpu = torch.cuda.is_available()
        if self.device == "cuda" and not has_gpu:
            raise ConfigError(
                "efficiency.device=cuda, but torch finds no GPU here; take cpu or auto"
            )
        found = torch.device("cuda" if has_gpu and self.device != "cpu" else "cpu")
        if self.precision == "16-mixed" and found.type == "cpu":
            raise ConfigError(
                "efficiency.precision=16-mixed needs a GPU; take 32-true or bf16-mixed on a CPU"
            )
        return found

    @property
    def product_dtype(self) -> torch.dtype:
        """The dtype that matrix products run in."""
        narrow = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        return narrow.get(self.precision, torch.float32)
