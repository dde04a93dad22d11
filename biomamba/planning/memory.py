"""Memory of one rank by component, and the micro-batch that fits."""

from dataclasses import dataclass
from typing import Any

from biomamba.planning.activations import (
    block_workspace,
    kept_by_block,
    kept_by_checkpointed_block,
    kept_by_ends,
    loss_workspace,
    narrow_weights,
)
from biomamba.planning.hardware import Hardware
from biomamba.planning.parameters import Parameter, adamw_bytes, float32_bytes
from biomamba.planning.settings import Layout, RunSettings

_FLOAT32, _FLOAT64 = 4, 8
# Ids, targets, numbers of documents and weights of a position: 8 + 8 + 4 + 4.
_BATCH_BYTES = 24
# FSDP2: the block that computes, the next one, and the buffer that it arrives in.
_GATHERED_BLOCKS = 3
# The same on the way back: gradients of a block, and the buffer that they are summed in.
_REDUCED_BLOCKS = 2


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the peak of a step, by component.

    Attributes:
        components: Name to bytes; their sum is what torch's allocator should show at its peak.
        margin: Assumed for fragmentation: a part of the sum.
        reserved: Assumed for context and libraries.
        available: Of the device.
    """

    components: dict[str, int]
    margin: int
    reserved: int
    available: int

    @property
    def peak(self) -> int:
        """Bytes of tensors."""
        return sum(self.components.values())

    @property
    def needed(self) -> int:
        """Bytes with everything assumed."""
        return self.peak + self.margin + self.reserved

    @property
    def fits(self) -> bool:
        """Whether the device has room for it."""
        return self.needed <= self.available

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "components_bytes": self.components,
            "peak_bytes": self.peak,
            "margin_bytes": self.margin,
            "reserved_bytes": self.reserved,
            "needed_bytes": self.needed,
            "available_bytes": self.available,
            "fits": self.fits,
        }


def plan_memory(run: RunSettings, hardware: Hardware, margin_ratio: float) -> Memory:
    """Add up what a rank holds at the peak of a step."""
    held = _held(run, hardware.world_size) | _activations(run)
    margin = int(margin_ratio * sum(held.values()))
    reserved = int(hardware.reserved_gib * 2**30)
    components = {name: size for name, size in held.items() if size}
    return Memory(components, margin, reserved, hardware.bytes_per_rank)


def fitting_rows(run: RunSettings, hardware: Hardware, margin_ratio: float) -> int | None:
    """Return the largest micro_batch_size that fits and divides the rows of a step; None: none.

    It divides as TokenBudget asks for: the rows of a step are dealt out evenly.
    """
    rows_of_rank, rest = divmod(run.budget.sequences_per_step, hardware.world_size)
    sizes = [] if rest else [n for n in range(rows_of_rank, 0, -1) if rows_of_rank % n == 0]
    return next(
        (n for n in sizes if plan_memory(run.with_rows(n), hardware, margin_ratio).fits), None
    )


def options(world_size: int) -> list[Layout]:
    """Return the layouts in the order of preference: what costs less work or traffic comes first.

    Copies send gradients only; shards also send weights; checkpointing computes a third more.
    """
    if world_size == 1:
        return [Layout("single"), Layout("single", activation_checkpointing=True)]
    return [
        Layout("ddp"),
        Layout("fsdp"),
        Layout("ddp", activation_checkpointing=True),
        Layout("fsdp", activation_checkpointing=True),
        Layout("fsdp", activation_checkpointing=True, sync_every_micro_batch=True),
    ]


def _held(run: RunSettings, world_size: int) -> dict[str, int]:
    """Count what does not depend on the micro-batch but for the number of them."""
    is_sharded = run.layout.strategy == "fsdp"
    ranks = world_size if is_sharded else 1
    parameters, trained = run.parameters.all, run.parameters.trained
    positions = run.budget.tokens_per_step // world_size
    held = {
        "weights": float32_bytes(parameters, ranks),
        "gradients": float32_bytes(trained, ranks),
        "optimizer states": adamw_bytes(trained, ranks),
        "moving average": float32_bytes(parameters, ranks) if run.ema else 0,
        "batch of a step": positions * _BATCH_BYTES,
    }
    if run.layout.strategy == "ddp":
        # DistributedDataParallel copies gradients into buckets (gradient_as_bucket_view is off).
        held["communication buckets"] = float32_bytes(trained)
    if is_sharded:
        held |= _gathered(run, trained, world_size)
    elif run.gradient_sums == "float64":
        held["float64 gradient sums"] = _FLOAT64 * run.parameters.trained_numel
    return held


def _gathered(run: RunSettings, trained: tuple[Parameter, ...], world_size: int) -> dict[str, int]:
    """Count what FSDP2 makes whole: units that compute, and gradients that wait for their sum."""
    size = _FLOAT64 if run.gradient_sums == "float64" else _FLOAT32
    largest = run.parameters.of_blocks()[0]
    outside = run.parameters.outside_blocks()
    accumulates = run.budget.accumulation(world_size) > 1 or run.segment_tokens is not None
    waits = accumulates and not run.layout.sync_every_micro_batch
    whole = sum(parameter.numel for parameter in trained) * size if waits else 0
    return {
        "gathered units": (outside + _GATHERED_BLOCKS * largest) * _FLOAT32,
        "whole gradients": whole,
        "reduction buffers": _REDUCED_BLOCKS * max(largest, outside) * size,
    }


def _activations(run: RunSettings) -> dict[str, int]:
    """Count what a micro-batch keeps, and the largest of what it needs besides at some moment."""
    config, batch = run.model, run.micro_batch()
    is_checkpointed = run.layout.activation_checkpointing
    count = kept_by_checkpointed_block if is_checkpointed else kept_by_block
    is_head_trained = any(_is_head(p, config.tie_embeddings) for p in run.parameters.trained)
    blocks = config.n_layer * count(config, batch)
    ends = kept_by_ends(config, batch, is_head_trained=is_head_trained)
    narrow = narrow_weights(config, batch)
    again = kept_by_block(config, batch) if is_checkpointed else 0
    while_kept = max(loss_workspace(config, batch), again + block_workspace(config, batch))
    # The backward of a tied embedding ends with the gradients of head and embedding, and their sum.
    table = config.padded_vocab_size * config.d_model * _FLOAT32 * is_head_trained
    at_the_end = max((3 if config.tie_embeddings else 2) * table, _sum_copy(run)) - blocks - ends
    return {
        "half-precision copies of weights": narrow,
        "activations of blocks": blocks,
        "loss and last norm": ends,
        "workspace": max(while_kept, at_the_end),
    }


def _sum_copy(run: RunSettings) -> int:
    """Count the copy that float64 sums are reduced in, beyond the gradients not yet there."""
    is_copied = run.gradient_sums == "float64" and run.layout.strategy != "fsdp"
    return (_FLOAT64 - _FLOAT32) * run.parameters.trained_numel * is_copied


def _is_head(parameter: Parameter, is_tied: bool) -> bool:
    return "embedding" in parameter.name if is_tied else parameter.name.startswith("lm_head")
