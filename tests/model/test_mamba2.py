import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM, make_mixer, no_decay_parameter_names
from biomamba.model.mamba2 import LayerState

Draw = Callable[..., Tensor]


@pytest.fixture(scope="module")
def fresh_model() -> MambaLM:
    torch.manual_seed(0)
    config = Mamba2Config(d_model=64, n_layer=4, vocab_size=512, headdim=1, d_state=8)
    return MambaLM(config, ChunkedScan())


def test_initial_decay_rates_are_uniform_from_1_to_16(fresh_model: MambaLM) -> None:
    A = torch.cat([layer.mixer.A_log.exp() for layer in fresh_model.backbone.layers])

    assert A.min() >= 0.999
    assert A.max() <= 16.001
    assert abs(A.mean().item() - 8.5) < 0.8  # 512 draws: standard error 0.19


def test_initial_steps_are_log_uniform(fresh_model: MambaLM) -> None:
    dt = torch.cat([F.softplus(layer.mixer.dt_bias) for layer in fresh_model.backbone.layers])

    assert dt.min() >= 0.000999
    assert dt.max() <= 0.1001
    assert abs(dt.log10().mean().item() + 2.0) < 0.1  # 512 draws: standard error 0.026


def test_dt_init_floor_is_a_floor() -> None:
    config = Mamba2Config(d_model=64, n_layer=1, vocab_size=8, headdim=1, dt_init_floor=0.05)
    dt = F.softplus(MambaLM(config, ChunkedScan()).backbone.layers[0].mixer.dt_bias)

    assert math.isclose(dt.min().item(), 0.05, rel_tol=1e-4)


def test_initial_scales(fresh_model: MambaLM) -> None:
    mixer = fresh_model.backbone.layers[0].mixer

    assert (mixer.D == 1).all()
    assert abs(fresh_model.backbone.embedding.weight.std().item() - 0.02) < 0.0005
    assert 0.98 < mixer.in_proj.weight.abs().max() * math.sqrt(64) <= 1.0
    # out_proj: 1 / sqrt(d_inner), divided by sqrt(n_layer)
    assert 0.98 < mixer.out_proj.weight.abs().max() * math.sqrt(128) * 2 <= 1.0


def test_layer_state_shapes(tiny_model: MambaLM, random_ids: Draw) -> None:
    _, states = tiny_model.hidden(random_ids(3, 2))

    assert len(states) == 2
    assert isinstance(states[0], LayerState)
    assert states[0].conv.shape == (3, 32 + 2 * 2 * 8, 4)
    assert states[0].ssm.shape == (3, 4, 8, 8)


@pytest.mark.parametrize("name", ["B", "C"])
def test_static_map_starts_with_length_1_in_every_group(name: str) -> None:
    config = Mamba2Config(
        d_model=64, n_layer=1, vocab_size=8, headdim=8, ngroups=4, d_state=16, static=[name]
    )
    model = MambaLM(config, ChunkedScan())
    constant = model.backbone.layers[0].mixer.get_parameter(name)

    torch.testing.assert_close(constant, torch.full((4, 16), 0.25))
    assert f"backbone.layers.0.mixer.{name}" in no_decay_parameter_names(model)


def test_state_of_a_head_is_one_mean_if_both_maps_are_static() -> None:
    config = Mamba2Config(
        d_model=16, n_layer=1, vocab_size=8, headdim=8, d_state=6, static=["B", "C"]
    )
    mixer = MambaLM(config, ChunkedScan()).backbone.layers[0].mixer
    mixer.get_parameter("B").data.uniform_(0.5, 2.0)
    _, state = mixer(torch.randn(2, 30, 16))

    per_entry = state.ssm / mixer.get_parameter("B")
    torch.testing.assert_close(per_entry, per_entry[..., :1].expand_as(per_entry))


@pytest.mark.parametrize("static", [[], ["dt"], ["B"]])
def test_only_an_ordinary_mixer_is_left_to_the_backend(static: list[str]) -> None:
    class MixingScan(ChunkedScan):
        asked = False

        def mix(self, *_: object) -> None:
            self.asked = True

    backend = MixingScan()
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=8, headdim=8, static=static)
    make_mixer(config, backend)(torch.randn(1, 3, 16))

    assert backend.asked == (not static)
