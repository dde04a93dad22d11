from collections.abc import Callable

import pytest
import torch

from biomamba.planning.memory import Layout, RunSettings


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="strategy must be one of single, ddp, fsdp"):
        Layout("deepspeed")


def test_a_layout_is_named_in_full() -> None:
    assert Layout("ddp").text == "DDP"
    full = Layout("fsdp", activation_checkpointing=True, sync_every_micro_batch=True)
    assert full.text == "FSDP2, sync_every_micro_batch, activation checkpointing"


def test_segments_bound_the_positions_of_a_micro_batch(
    settings: Callable[..., RunSettings],
) -> None:
    run = settings(rows=4, precision="bf16-mixed")

    assert run.micro_batch().positions == 4 * 64
    assert run.micro_batch().dtype == torch.bfloat16
    assert settings(rows=4, segment_tokens=16).micro_batch().positions == 4 * 16
    assert settings(rows=4, segment_tokens=1_000).micro_batch().positions == 4 * 64


def test_changes_leave_the_rest(settings: Callable[..., RunSettings]) -> None:
    run = settings()

    assert run.with_rows(8).with_rows(2) == run
    assert run.with_layout(Layout("ddp")).with_layout(run.layout) == run
