"""What every mixer must do, whichever model it belongs to."""

import pytest
import torch
from torch import Tensor, nn

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.mamba2 import Mamba2Mixer
from biomamba.model.mixer import Mixer

LENGTH, WIDTH = 13, 16


@pytest.fixture
def mixer() -> Mixer:
    """A float64 mixer whose every path matters to the output."""
    config = Mamba2Config(d_model=WIDTH, n_layer=1, vocab_size=8, d_state=8, headdim=8, ngroups=2)
    module: nn.Module = Mamba2Mixer(config, ChunkedScan(chunk_size=4)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    assert isinstance(module, Mamba2Mixer)
    return module


@pytest.fixture
def u() -> Tensor:
    return torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)


def test_the_empty_state_is_none(mixer: Mixer, u: Tensor) -> None:
    torch.testing.assert_close(mixer(u, None, mixer.initial_state(2)), mixer(u))


@pytest.mark.parametrize("cut", [1, 3, 4, 12])
def test_two_segments_with_the_state_equal_one(mixer: Mixer, u: Tensor, cut: int) -> None:
    whole, final = mixer(u)
    first, state = mixer(u[:, :cut])
    second, last = mixer(u[:, cut:], None, state)

    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(last, final)


def test_steps_equal_the_whole(mixer: Mixer, u: Tensor) -> None:
    whole, final = mixer(u)
    state = mixer.initial_state(2)
    for position in range(LENGTH):
        output, state = mixer.step(u[:, position], state)
        torch.testing.assert_close(output, whole[:, position])

    torch.testing.assert_close(state, final)


@pytest.mark.parametrize("cut", [1, 3, 4, 12])
def test_nothing_passes_where_the_document_changes(mixer: Mixer, u: Tensor, cut: int) -> None:
    documents = (torch.arange(LENGTH) >= cut).int().expand(2, LENGTH)
    together, final = mixer(u, documents)
    alone = [mixer(part) for part in (u[:, :cut], u[:, cut:])]

    torch.testing.assert_close(together, torch.cat([output for output, _ in alone], dim=1))
    torch.testing.assert_close(final, alone[1][1])
