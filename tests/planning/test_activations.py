"""Predicted activations against what autograd saves and what a step holds at its peak."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.planning.memory import (
    MicroBatch,
    block_workspace,
    kept_by_block,
    kept_by_checkpointed_block,
    kept_by_ends,
    loss_workspace,
    narrow_weights,
)

CONFIGS: dict[str, MambaConfig] = {
    "mamba2": Mamba2Config(d_model=64, n_layer=2, vocab_size=128, headdim=16, d_state=16),
    "mamba2-groups": Mamba2Config(
        d_model=128, n_layer=3, vocab_size=512, headdim=64, d_state=32, ngroups=2
    ),
    "mamba1": Mamba1Config(d_model=64, n_layer=2, vocab_size=128),
    "untied": Mamba2Config(
        d_model=32, n_layer=1, vocab_size=64, headdim=16, d_state=16, tie_embeddings=False
    ),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Whole chunks, and rows that are filled up to 4 chunks of 32.
SHAPES = [(1, 64, 64), (2, 128, 64), (2, 100, 32)]


def batch_of(rows: int, length: int, chunk: int, dtype: torch.dtype) -> MicroBatch:
    return MicroBatch(rows=rows, length=length, dtype=dtype, backend="chunked", chunk_size=chunk)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_kept_is_what_autograd_saves(
    name: str, shape: tuple[int, int, int], dtype: torch.dtype, measure: Callable[..., Any]
) -> None:
    config, batch = CONFIGS[name], batch_of(*shape, dtype)

    saved = measure(config, batch).saved

    kept = config.n_layer * kept_by_block(config, batch) + kept_by_ends(config, batch)
    assert saved == kept + narrow_weights(config, batch)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpointed_block_keeps_its_input(name: str, measure: Callable[..., Any]) -> None:
    config, batch = CONFIGS[name], batch_of(2, 128, 64, torch.float32)

    saved = measure(config, batch, checkpointing=True).saved

    inputs = config.n_layer * kept_by_checkpointed_block(config, batch)
    assert saved == inputs + kept_by_ends(config, batch)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["mamba2", "mamba2-groups", "mamba1"])
def test_peak_of_a_step_stays_below_the_bound_and_near_it(
    name: str, dtype: torch.dtype, checkpointing: bool, measure: Callable[..., Any]
) -> None:
    """Workspaces are bounds: what is alive at once depends on the order of small steps."""
    config, batch = CONFIGS[name], batch_of(2, 128, 64, dtype)

    peak = measure(config, batch, checkpointing=checkpointing).peak

    of_block = kept_by_checkpointed_block if checkpointing else kept_by_block
    again = kept_by_block(config, batch) if checkpointing else 0
    kept = config.n_layer * of_block(config, batch) + kept_by_ends(config, batch)
    kept += narrow_weights(config, batch)
    workspace = max(loss_workspace(config, batch), again + block_workspace(config, batch))
    assert peak <= kept + workspace <= 1.35 * peak


def test_a_row_of_2_7b_by_hand() -> None:
    """One row of 1,024 in fp16: all widths times positions, plus 16 chunks of states."""
    config = Mamba2Config(d_model=2_560, n_layer=64, vocab_size=50_277)
    batch = MicroBatch(rows=1, length=1_024, dtype=torch.float16, backend="chunked")
    # d_inner 5,120, 80 heads, 5,376 convolved channels, 10,576 projected.
    halves = 2 * (2_560 + 10_576 + 5_376 + 5_120 + 5_120)  # norm, in_proj, conv, scan, gated norm
    wide = 4 * (2_560 + 5_120 + 8 * 80)  # residual, fp16's outputs before the limit, steps
    states = 16 * 5_120 * 128 * 2 + 5_120 * 128 * 4
    small = 1_024 * 6 + 16 * (80 * 4 + 1) + (3 * 80 + 5_120) * 4

    assert kept_by_block(config, batch) == 1_024 * (halves + wide) + states + small
    assert kept_by_checkpointed_block(config, batch) == 1_024 * 2_560 * 4


def test_fused_kernels_keep_less_than_chunks() -> None:
    config = CONFIGS["mamba2"]
    chunked = batch_of(2, 128, 64, torch.bfloat16)
    fused = MicroBatch(rows=2, length=128, dtype=torch.bfloat16, backend="fused")

    assert kept_by_block(config, fused) < kept_by_block(config, chunked)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("backend", ["chunked", "fused"])
def test_everything_grows_with_the_rows(name: str, backend: str) -> None:
    config = CONFIGS[name]
    counts = (kept_by_block, kept_by_checkpointed_block, kept_by_ends, block_workspace)
    for count in counts:
        sizes = [
            count(
                config,
                MicroBatch(rows=rows, length=64, dtype=torch.bfloat16, backend=backend),
            )
            for rows in (1, 2, 4)
        ]
        assert sizes == sorted(set(sizes))


def test_the_loss_never_needs_more_than_its_block_of_logits() -> None:
    """96 MiB of logits in fp16 and two wide pieces of 48 MiB, however many rows there are."""
    config = Mamba2Config(d_model=768, n_layer=1, vocab_size=50_277)
    one, many = (
        MicroBatch(rows=rows, length=1_024, dtype=torch.float16, backend="chunked")
        for rows in (1, 64)
    )
    hidden = 1_024 * 768 * 2

    assert loss_workspace(config, many) - loss_workspace(config, one) == 63 * hidden
    head = 50_288 * 768 * 2
    assert loss_workspace(config, one) - hidden - head < 2 * 96 * 2**20 + 4 * 1_024 * 768
