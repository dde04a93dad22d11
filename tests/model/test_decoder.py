from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.decoder import Decoder, Mamba2Step, PlainStep
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import ConfigError

Draw = Callable[..., Tensor]


CONFIGS: dict[str, MambaConfig] = {
    "mamba1": Mamba1Config(d_model=16, n_layer=2, vocab_size=37, d_state=8),
    "mamba2": Mamba2Config(
        d_model=16, n_layer=2, vocab_size=37, d_state=8, headdim=8, ngroups=2, tie_embeddings=False
    ),
    "static_dt": Mamba2Config(
        d_model=16, n_layer=2, vocab_size=37, d_state=8, headdim=8, static=["dt"]
    ),
    "static_B": Mamba2Config(
        d_model=16, n_layer=2, vocab_size=37, d_state=8, headdim=8, static=["B"]
    ),
}


@pytest.fixture(params=[*CONFIGS, "tied"])
def model(request: pytest.FixtureRequest, tiny_config: MambaConfig) -> MambaLM:
    config = CONFIGS.get(request.param, tiny_config)
    model = MambaLM(config, ChunkedScan(chunk_size=8)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_position_equals_the_step_of_the_model(
    model: MambaLM, random_ids: Draw, dtype: torch.dtype
) -> None:
    model, ids = model.to(dtype), random_ids(3, 40)
    decoder, states = Decoder(model), model.initial_states(3)
    decoder.load(states)
    for position in range(40):
        expected, states = model.step(ids[:, position], states)
        torch.testing.assert_close(decoder.step(ids[:, position]), expected)

    torch.testing.assert_close(decoder.states(), states)


def test_narrow_products_are_those_of_narrow_matrices(
    tiny_model: MambaLM, random_ids: Draw
) -> None:
    """All that is rounded are the matrices and what they are multiplied with and give."""
    model, ids = tiny_model.float(), random_ids(2, 12)
    decoder, exact = Decoder(model, torch.bfloat16), Decoder(model)
    states = model.initial_states(2)
    for each in (decoder, exact):
        each.load(states)
    for position in range(12):
        narrow, wide = (each.step(ids[:, position]) for each in (decoder, exact))
        assert narrow.dtype == torch.bfloat16
        # Five roundings of 2^-9 in each of two layers and at the head.
        assert (narrow - wide).abs().max() <= 11 * 2**-8 * wide.abs().max()
        assert not torch.equal(narrow.float(), wide)
    for narrow_state, state in zip(decoder.states(), exact.states(), strict=True):
        assert narrow_state.ssm.dtype == torch.float32
        difference = (narrow_state.ssm - state.ssm).abs().max()
        assert 0 < difference <= 2**-5 * state.ssm.abs().max()


def test_the_own_precision_is_no_copy(tiny_model: MambaLM) -> None:
    assert Decoder(tiny_model.float(), torch.float32).product_dtype is None


@pytest.mark.parametrize("name", ["mamba1", "static_B"])
def test_blocks_that_know_no_narrow_products_are_refused(name: str) -> None:
    model = MambaLM(CONFIGS[name], ChunkedScan())
    with pytest.raises(ConfigError, match=r"generation\.precision=bfloat16: only for Mamba2"):
        Decoder(model, torch.bfloat16)


def test_decoder_goes_on_behind_the_parallel_pass(model: MambaLM, random_ids: Draw) -> None:
    ids = random_ids(2, 20)
    expected = model(ids)
    decoder = Decoder(model)
    decoder.load(model.hidden(ids[:, :13])[1])
    for position in range(13, 20):
        torch.testing.assert_close(decoder.step(ids[:, position]), expected[:, position])


def test_rows_can_be_left_out(model: MambaLM, random_ids: Draw) -> None:
    ids = random_ids(3, 10)
    expected = model(ids)
    decoder = Decoder(model)
    decoder.load(model.hidden(ids[:, :5])[1])
    decoder.keep([2, 0])
    for position in range(5, 10):
        logits = decoder.step(ids[[2, 0], position])
        torch.testing.assert_close(logits, expected[[2, 0], position])


def test_plain_blocks_of_mamba2_are_stepped_in_place(model: MambaLM) -> None:
    is_served = isinstance(model.config, Mamba2Config) and not model.config.static
    expected = Mamba2Step if is_served else PlainStep

    assert all(isinstance(block, expected) for block in Decoder(model).blocks)


def test_the_model_keeps_its_numbers(model: MambaLM, random_ids: Draw) -> None:
    before, ids = {n: t.clone() for n, t in model.state_dict().items()}, random_ids(2, 9)
    logits = model(ids)
    decoder = Decoder(model)
    decoder.load(model.initial_states(2))
    decoder.step(ids[:, 0])

    torch.testing.assert_close(model(ids), logits)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_memory_does_not_grow_with_the_positions(model: MambaLM, random_ids: Draw) -> None:
    """Every state keeps its shape, so a position costs the same at any distance."""
    decoder = Decoder(model)
    decoder.load(model.initial_states(2))
    shapes = [[part.shape for part in state] for state in decoder.states()]
    for position in range(9):
        decoder.step(random_ids(2, 9)[:, position])

    assert [[part.shape for part in state] for state in decoder.states()] == shapes


def test_logits_carry_no_graph(model: MambaLM, random_ids: Draw) -> None:
    decoder = Decoder(model)
    decoder.load(model.initial_states(1))

    assert not decoder.step(random_ids(1)).requires_grad
