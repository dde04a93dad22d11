"""What a micro-batch keeps for its backward pass, and what it needs while it computes: bytes.

Counted from the code of biomamba.model, tensor by tensor; the tests compare the counts with what
autograd saves and with the peak of a step. Letters as in `biomamba.model.ssd`; h = bytes of a
number in products, wide = 4 in float32 statistics and states.
"""

import math
from dataclasses import dataclass

import torch

from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig

_WIDE = 4
_MIB = 2**20
# As in biomamba.model.cross_entropy: one block of logits, and the wide piece of it on a GPU.
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
