"""Memory of one rank by component, from shapes and settings, and the micro-batch that fits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from biomamba.data.mixture import TokenBudget
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.language_model import MambaLM
from biomamba.model.lora import Adaptation
from biomamba.planning.hardware import Hardware
from biomamba.training.launch import product_dtype_of

# -------------------------------------------------------------------------------------------------
# The parameters of a model that is not built: shapes on the meta device, bytes exactly.
# -------------------------------------------------------------------------------------------------

_FLOAT32 = 4


@dataclass(frozen=True)
class Parameter:
    """Name, shape and whether it is trained."""

    name: str
    shape: tuple[int, ...]
    is_trained: bool

    @property
    def numel(self) -> int:
        """Numbers it holds."""
        return torch.Size(self.shape).numel()

    def shard_numel(self, world_size: int) -> int:
        """Numbers of the largest shard: FSDP2 deals out rows and fills the parts up."""
        rows = -(-self.shape[0] // world_size)
        return rows * torch.Size(self.shape[1:]).numel()


@dataclass(frozen=True)
class Parameters:
    """All parameters of a model in their order; master weights are float32."""

    all: tuple[Parameter, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "Parameters":
        """Read them from a model on any device."""
        found = ((n, tuple(p.shape), p.requires_grad) for n, p in model.named_parameters())
        return cls(tuple(Parameter(*each) for each in found))

    @classmethod
    def described(cls, config: MambaConfig, adaptation: Adaptation | None) -> "Parameters":
        """Make the model on the meta device, which holds no numbers, and read them.

        Raises:
            ConfigError: The adaptation names what the model does not have.
        """
        with torch.device("meta"):
            model = MambaLM(config, ChunkedScan())
            if adaptation is not None:
                replace(adaptation, adapter=None).apply(model)
        return cls.of(model)

    @property
    def trained(self) -> tuple[Parameter, ...]:
        """Those that have gradients and optimizer states."""
        return tuple(parameter for parameter in self.all if parameter.is_trained)

    @property
    def total_numel(self) -> int:
        """Numbers of the model."""
        return sum(parameter.numel for parameter in self.all)

    @property
    def trained_numel(self) -> int:
        """Numbers that are trained."""
        return sum(parameter.numel for parameter in self.trained)

    def of_blocks(self) -> list[int]:
        """Return the numbers of each block, of the most to the fewest."""
        sizes: dict[str, int] = {}
        for parameter in self.all:
            if (unit := _block_of(parameter.name)) is not None:
                sizes[unit] = sizes.get(unit, 0) + parameter.numel
        return sorted(sizes.values(), reverse=True)

    def outside_blocks(self) -> int:
        """Return the numbers of embedding, last norm and head."""
        return sum(p.numel for p in self.all if _block_of(p.name) is None)


def float32_bytes(parameters: Sequence[Parameter], world_size: int = 1) -> int:
    """Return the bytes of float32 tensors of these shapes, or of their shards on one rank."""
    return _FLOAT32 * sum(p.shard_numel(world_size) for p in parameters)


def adamw_bytes(parameters: Sequence[Parameter], world_size: int = 1) -> int:
    """Return the bytes of AdamW's state: two averages, and one float32 step per parameter."""
    return 2 * float32_bytes(parameters, world_size) + _FLOAT32 * len(parameters)


def _block_of(name: str) -> str | None:
    head, found, rest = name.partition("layers.")
    return head + rest.split(".")[0] if found else None


# -------------------------------------------------------------------------------------------------
# What a micro-batch keeps for its backward pass, and what it needs while it computes: bytes.
#
# Counted from the code of biomamba.model, tensor by tensor; the tests compare the counts with what
# autograd saves and with the peak of a step. Letters as in `biomamba.model.ssd`; h = bytes of a
# number in products, wide = 4 in float32 statistics and states.
# -------------------------------------------------------------------------------------------------

_WIDE = 4
_MIB = 2**20
# As in biomamba.model.loss: one block of logits, and the wide piece of it on a GPU.
_BLOCK_BYTES, _BLOCK_ROWS, _PIECE_BYTES = 96 * _MIB, 64, 48 * _MIB
# As in biomamba.model.selective_scan on a GPU: elements of one array of the scan of Mamba-1.
_SELECTIVE_ELEMENTS, _SELECTIVE_ARRAYS, _SELECTIVE_POSITIONS = 2**26, 3, 16


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Rows that one rank computes at once.

    Attributes:
        rows: Their number.
        length: Positions of each, or of a segment where rows are cut.
        dtype: Of the products: float32, bfloat16 or float16.
        backend: `chunked` or `fused`.
        chunk_size: Of the chunked scan.
    """

    rows: int
    length: int
    dtype: torch.dtype
    backend: str
    chunk_size: int = 64

    @property
    def positions(self) -> int:
        """Positions of all rows."""
        return self.rows * self.length

    @property
    def chunk(self) -> int:
        """Positions of a chunk: no more than a row has."""
        return min(self.chunk_size, self.length)

    @property
    def scanned(self) -> int:
        """Positions that the chunked scan computes, with those that fill up the last chunk."""
        return self.rows * math.ceil(self.length / self.chunk) * self.chunk

    @property
    def is_mixed(self) -> bool:
        """Whether products are narrower than the weights, so that these are copied."""
        return self.dtype.itemsize < _WIDE


def kept_by_block(config: MambaConfig, batch: MicroBatch) -> int:
    """Count what one block keeps until its backward pass, without activation checkpointing."""
    width = config.d_model
    # The input of the norm, and its output, which in_proj keeps.
    around = batch.positions * width * (_WIDE + batch.dtype.itemsize)
    match config:
        case Mamba2Config() if batch.backend == "fused":
            return around + _fused_mixer(config, batch)
        case Mamba2Config():
            return around + _chunked_mixer(config, batch)
        case Mamba1Config():
            return around + _selective_mixer(config, batch)
    raise TypeError(f"{type(config).__name__} describes no mixer that is known here")


def kept_by_checkpointed_block(config: MambaConfig, batch: MicroBatch) -> int:
    """Count what a block keeps with activation checkpointing: its input."""
    return batch.positions * config.d_model * _WIDE


def kept_by_ends(config: MambaConfig, batch: MicroBatch, *, is_head_trained: bool = True) -> int:
    """Count what the last norm and the loss keep: its input, gradients of hidden and head."""
    hidden = batch.positions * config.d_model
    documents = batch.positions * 4
    head = config.padded_vocab_size * config.d_model * _WIDE if is_head_trained else 0
    return hidden * (_WIDE + batch.dtype.itemsize) + documents + head


def narrow_weights(config: MambaConfig, batch: MicroBatch) -> int:
    """Count the half-precision copies of the matrices, which autocast keeps during a step."""
    if not batch.is_mixed:
        return 0
    inner, width = config.d_inner, config.d_model
    if isinstance(config, Mamba2Config):
        block = width * (sum(config.in_proj_sizes) + inner)
    else:
        assert isinstance(config, Mamba1Config)
        steps = config.x_proj_sizes.get("dt", 0)
        block = inner * (3 * width + sum(config.x_proj_sizes.values()) + steps)
    return config.n_layer * block * batch.dtype.itemsize


def loss_workspace(config: MambaConfig, batch: MicroBatch) -> int:
    """Count what the loss needs while it is made: hidden vectors, narrow head, block of logits."""
    size, vocab = batch.dtype.itemsize, config.padded_vocab_size
    multiple = _BLOCK_BYTES // (max(vocab, config.d_model) * size) // _BLOCK_ROWS * _BLOCK_ROWS
    rows = min(max(multiple, _BLOCK_ROWS), batch.positions)
    block = rows * vocab * size
    products = 2 * rows * config.d_model * size
    hidden = batch.positions * config.d_model * size
    if not batch.is_mixed:
        return hidden + block + products
    piece = min(_PIECE_BYTES, rows * vocab * _WIDE)
    return hidden + block + products + 2 * piece + vocab * config.d_model * size


def block_workspace(config: MambaConfig, batch: MicroBatch) -> int:
    """Bound what the backward pass of one block needs beside what was kept.

    The largest of the gated norm, the convolution and the scan, each with the gradients that are on
    their way; on a GPU, where nothing is cut into tiles.
    """
    size, inner, channels = batch.dtype.itemsize, config.d_inner, config.conv_channels
    stream = batch.positions * config.d_model * (_WIDE + 2 * size)
    if isinstance(config, Mamba1Config):
        arrays = min(_SELECTIVE_ELEMENTS, batch.positions * inner * config.d_state)
        vectors = inner * (2 * size + (13 if batch.is_mixed else 6) * _WIDE)
        scan = _SELECTIVE_ARRAYS * arrays * _WIDE + batch.positions * vectors
        return stream + max(scan, _conv_workspace(channels, batch))
    assert isinstance(config, Mamba2Config)
    projected = batch.positions * sum(config.in_proj_sizes) * size
    if batch.backend == "fused":
        # mamba-ssm computes convolution, states and output again: about ten arrays like y.
        return stream + projected + batch.positions * (10 * inner + 2 * channels) * size
    norm = batch.positions * inner * (8 * _WIDE + 3 * size)
    steps = _chunk_workspace(config, batch)
    return stream + projected + max(norm, steps, _conv_workspace(channels, batch))


def _conv_workspace(channels: int, batch: MicroBatch) -> int:
    return batch.positions * channels * (7 * _WIDE + 2 * batch.dtype.itemsize)


def _chunk_workspace(config: Mamba2Config, batch: MicroBatch) -> int:
    """Bound the backward of the scan: matrices of each head, states of each chunk, outputs."""
    size = batch.dtype.itemsize
    matrices = config.nheads * batch.chunk * (2 * _WIDE + 2 * size)
    states = 2 * config.d_inner * config.d_state * size // batch.chunk
    outputs = config.d_inner * 10 * size
    return batch.scanned * (matrices + states + outputs)


def _chunked_mixer(config: Mamba2Config, batch: MicroBatch) -> int:
    """Count what a Mamba2 mixer keeps with backend=chunked."""
    size, inner, heads = batch.dtype.itemsize, config.d_inner, config.nheads
    is_fp16 = batch.dtype == torch.float16
    projected = sum(config.in_proj_sizes) * size
    convolved = config.conv_channels * size
    result = batch.positions * (projected + convolved + inner * size + heads * _WIDE)
    # Steps, their products with A, sums, decays to the end (two) and from the start; in fp16 the
    # scaled steps too.
    decays = heads * _WIDE * (7 if is_fp16 else 6)
    documents = 4 + 2  # numbers and two masks
    result += batch.scanned * (decays + documents + inner * size)
    if is_fp16:  # the outputs before they are limited to its range
        result += batch.scanned * inner * _WIDE
    if batch.scanned > batch.positions:  # copies of x, B and C that are filled up
        maps = inner + 2 * config.ngroups * config.d_state
        result += batch.scanned * maps * size
    chunks = batch.scanned // batch.chunk
    states = chunks * inner * config.d_state * size
    first = batch.rows * inner * config.d_state * _WIDE
    through = chunks * (heads * _WIDE + 1)
    constants = (2 * heads + inner + (heads if is_fp16 else 0)) * _WIDE  # A twice, D, the scale
    return result + states + first + through + constants


def _fused_mixer(config: Mamba2Config, batch: MicroBatch) -> int:
    """Count what a Mamba2 mixer keeps with backend=fused: zxBCdt, the output and the normed one.

    Source: mamba-ssm 2.3.2.post1, MambaSplitConv1dScanCombinedFn.forward; not measured.
    """
    size, inner = batch.dtype.itemsize, config.d_inner
    projected = sum(config.in_proj_sizes) * size
    return batch.positions * (projected + 2 * inner * size + config.ngroups * _WIDE + 4)


def _selective_mixer(config: Mamba1Config, batch: MicroBatch) -> int:
    """Count what a Mamba-1 mixer keeps."""
    size, inner = batch.dtype.itemsize, config.d_inner
    projected = (2 * inner + sum(config.x_proj_sizes.values())) * size
    # Convolved, with the skip, the gate, gated; the steps before and after the softplus; starts.
    per_position = projected + 4 * inner * size + 2 * inner * _WIDE + 1
    states = inner * config.d_state * _WIDE
    stretches = math.ceil(batch.length / _stretch(config, batch))
    constants = 2 * states + (inner * size if batch.is_mixed else 0)  # A twice, D
    return batch.positions * per_position + batch.rows * states * (1 + stretches) + constants


def _stretch(config: Mamba1Config, batch: MicroBatch) -> int:
    """Return the positions between two states that the scan of Mamba-1 keeps, on a GPU."""
    each = config.d_state * _SELECTIVE_POSITIONS
    width = min(config.d_inner, max(1, _SELECTIVE_ELEMENTS // each))
    rows = max(1, min(batch.rows, _SELECTIVE_ELEMENTS // (each * width)))
    return max(_SELECTIVE_POSITIONS, _SELECTIVE_ELEMENTS // (rows * config.d_state * width))


# -------------------------------------------------------------------------------------------------
# What of a training configuration decides its memory, time and disk.
# -------------------------------------------------------------------------------------------------

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


# -------------------------------------------------------------------------------------------------
# Memory of one rank by component, and the micro-batch that fits.
# -------------------------------------------------------------------------------------------------

_FLOAT32_BYTES, _FLOAT64 = 4, 8
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
    size = _FLOAT64 if run.gradient_sums == "float64" else _FLOAT32_BYTES
    largest = run.parameters.of_blocks()[0]
    outside = run.parameters.outside_blocks()
    accumulates = run.budget.accumulation(world_size) > 1 or run.segment_tokens is not None
    waits = accumulates and not run.layout.sync_every_micro_batch
    whole = sum(parameter.numel for parameter in trained) * size if waits else 0
    return {
        "gathered units": (outside + _GATHERED_BLOCKS * largest) * _FLOAT32_BYTES,
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
    table = config.padded_vocab_size * config.d_model * _FLOAT32_BYTES * is_head_trained
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
    return (_FLOAT64 - _FLOAT32_BYTES) * run.parameters.trained_numel * is_copied


def _is_head(parameter: Parameter, is_tied: bool) -> bool:
    return "embedding" in parameter.name if is_tied else parameter.name.startswith("lm_head")
