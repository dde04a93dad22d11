"""What of a training configuration decides its memory, time and disk."""

from dataclasses import dataclass, replace

import torch

from biomamba.data.budget import TokenBudget
from biomamba.model.config import MambaConfig
from biomamba.planning.activations import MicroBatch
from biomamba.planning.parameters import Parameters
from biomamba.training.launch import product_dtype_of

STRATEGIES = ("single", "ddp", "fsdp")


@dataclass(frozen=True)
class Layout:
    """How the ranks share a model and what they forget until the backward pass.

    Attributes:
        strategy: `single`, `ddp` or `fsdp`.
        activation_checkpointing: Whether blocks keep their inputs only.
        sync_every_micro_batch: Of `fsdp`: no rank holds whole gradients.
    """

    strategy: str
    activation_checkpointing: bool = False
    sync_every_micro_batch: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}: {self.strategy!r}")

    @property
    def text(self) -> str:
        """Name it in a table."""
        words = {"single": "one process", "ddp": "DDP", "fsdp": "FSDP2"}[self.strategy]
        words += ", sync_every_micro_batch" if self.sync_every_micro_batch else ""
        return words + (", activation checkpointing" if self.activation_checkpointing else "")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """A run as it is configured.

    Attributes:
        ema: Whether an average of the weights is kept.
        backend: What computes the scan on the planned hardware: `chunked`, `fused`, `reference`.
        segment_tokens: Positions of the segments that rows are cut into; None: uncut.
        gradient_sums: Precision of the sums of gradients.
        keep_last: Checkpoints that stay; 0: none are written.
        keep_every_steps: Multiples of which are kept for good.
        val_positions: Of one validation at most; None: not known.
        val_every_steps: Steps between two of them.
    """

    model: MambaConfig
    parameters: Parameters
    budget: TokenBudget
    layout: Layout
    precision: str
    backend: str
    chunk_size: int = 64
    ema: bool = False
    gradient_sums: str = "float32"
    segment_tokens: int | None = None
    keep_last: int = 0
    keep_every_steps: int | None = None
    val_positions: int | None = None
    val_every_steps: int | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products."""
        return product_dtype_of(self.precision)

    def micro_batch(self) -> MicroBatch:
        """Return what a rank computes at once."""
        length = self.budget.seq_len
        return MicroBatch(
            rows=self.budget.micro_batch_size,
            length=min(length, self.segment_tokens or length),
            dtype=self.dtype,
            backend=self.backend,
            chunk_size=self.chunk_size,
        )

    def with_rows(self, rows: int) -> "RunSettings":
        """Return it with another micro-batch size."""
        return replace(self, budget=replace(self.budget, micro_batch_size=rows))

    def with_layout(self, layout: Layout) -> "RunSettings":
        """Return it with another layout."""
        return replace(self, layout=layout)
