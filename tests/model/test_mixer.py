"""What every mixer must do, whichever model it belongs to."""

import pytest
import torch
from torch import Tensor

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.language_model import make_mixer
from biomamba.model.mixer import Mixer

LENGTH, WIDTH = 13, 16
CONFIGS = {
    "mamba1": Mamba1Config(d_model=WIDTH, n_layer=1, vocab_size=8, d_state=8, dt_rank=3),
    "mamba2": Mamba2Config(
        d_model=WIDTH, n_layer=1, vocab_size=8, d_state=8, headdim=8, ngroups=2
    ),
}  # fmt: skip


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def config(request: pytest.FixtureRequest) -> MambaConfig:
    assert isinstance(request.param, MambaConfig)
    return request.param


@pytest.fixture
def mixer(config: MambaConfig) -> Mixer:
    """A float64 mixer whose every path matters to the output."""
    module = make_mixer(config, ChunkedScan(chunk_size=4)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


@pytest.fixture
def u() -> Tensor:
    return torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)


def test_the_config_counts_the_parameters(config: MambaConfig) -> None:
    module = make_mixer(config, ChunkedScan())

    assert sum(p.numel() for p in module.parameters()) == config.mixer_parameters()


def test_the_empty_state_is_none(mixer: Mixer, u: Tensor) -> None:
    torch.testing.assert_close(mixer(u, None, mixer.initial_state(2)), mixer(u))


def test_the_states_are_those_of_the_initial_state(mixer: Mixer, u: Tensor) -> None:
    expected = [(part.shape, part.dtype) for part in mixer.initial_state(2)]
    _, after = mixer(u)
    _, next_one = mixer.step(u[:, 0], after)

    for state in (after, next_one):
        assert [(part.shape, part.dtype) for part in state] == expected


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


def test_no_output_depends_on_a_later_input(mixer: Mixer, u: Tensor) -> None:
    changed = u.clone()
    changed[:, 7:] += 1.0

    before, after = (mixer(inputs)[0] for inputs in (u, changed))
    torch.testing.assert_close(after[:, :7], before[:, :7], rtol=0, atol=1e-12)
    assert ((after[:, 7:] - before[:, 7:]).abs().amax(-1) > 1e-3).all()
