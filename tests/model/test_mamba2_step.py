from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from biomamba.model import decoder as mamba2_step
from biomamba.model.decoder import Mamba2Step
from biomamba.model.language_model import MambaBlock, MambaLM

Draw = Callable[..., Tensor]
LENGTH = 11


@pytest.fixture
def block(tiny_model: MambaLM) -> MambaBlock:
    return tiny_model.backbone.blocks()[0]


def residuals(batch: int = 3) -> Tensor:
    return torch.randn(LENGTH, batch, 16, dtype=torch.float64)


@torch.no_grad()
def test_every_position_equals_the_step_of_the_block(block: MambaBlock) -> None:
    step, state = Mamba2Step(block), block.mixer.initial_state(3)
    step.load(state)
    for residual in residuals():
        expected, state = block.step(residual, state)

        torch.testing.assert_close(step(residual), expected)
        torch.testing.assert_close(step.state(), state)


# Six groups of 16 channels of 8 float64 states, 1,024 bytes each: one by one, in pairs, unevenly.
@pytest.mark.parametrize("tile_bytes", [1, 2_048, 4_096])
@torch.no_grad()
def test_states_are_worked_on_in_tiles(
    block: MambaBlock, tile_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mamba2_step, "_TILE_BYTES", tile_bytes)
    test_every_position_equals_the_step_of_the_block(block)


# The ring of the convolution has another oldest input after each of these counts.
@pytest.mark.parametrize("taken", [0, 1, 2, 3, 4, 5])
@torch.no_grad()
def test_states_can_be_handed_over_at_any_position(block: MambaBlock, taken: int) -> None:
    inputs = residuals()
    whole, first, second = Mamba2Step(block), Mamba2Step(block), Mamba2Step(block)
    for step in (whole, first):
        step.load(block.mixer.initial_state(3))
    expected = [whole(residual) for residual in inputs]
    actual = [first(residual) for residual in inputs[:taken]]
    second.load(first.state())
    actual += [second(residual) for residual in inputs[taken:]]

    torch.testing.assert_close(torch.stack(actual), torch.stack(expected))


@torch.no_grad()
def test_rows_can_be_left_out_and_reordered(block: MambaBlock) -> None:
    inputs, kept = residuals(), [2, 0]
    step, alone = Mamba2Step(block), Mamba2Step(block)
    step.load(block.mixer.initial_state(3))
    alone.load(block.mixer.initial_state(2))
    for residual in inputs[:5]:
        step(residual)
        alone(residual[kept])
    step.keep(torch.tensor(kept))
    for residual in inputs[5:]:
        torch.testing.assert_close(step(residual[kept]), alone(residual[kept]))


@torch.no_grad()
def test_loaded_states_are_not_changed(block: MambaBlock) -> None:
    state = block.mixer.initial_state(3)
    step = Mamba2Step(block)
    step.load(state)
    step(residuals()[0])

    assert not state.conv.any()
    assert not state.ssm.any()


def test_a_block_with_other_parameters_is_not_served(block: MambaBlock) -> None:
    assert Mamba2Step.serves(block)

    block.mixer.in_proj.added = nn.Parameter(torch.zeros(1))
    assert not Mamba2Step.serves(block)


@torch.no_grad()
def test_narrow_weights_stay_near_the_step_of_the_block(block: MambaBlock) -> None:
    block = block.bfloat16()
    step, state = Mamba2Step(block), block.mixer.initial_state(3)
    step.load(state)
    for residual in residuals().bfloat16():
        expected, state = block.step(residual, state)
        actual = step(residual)

        assert actual.dtype == expected.dtype == torch.float32
        # A dozen roundings to 2^-9 of values below the largest.
        assert (actual - expected).abs().max() < 12 * 2**-9 * expected.abs().max()
