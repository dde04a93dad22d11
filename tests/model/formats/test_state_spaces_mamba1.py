from typing import Any

import pytest

from biomamba.model.config import Mamba1Config
from biomamba.model.formats.layouts import STATE_SPACES_MAMBA1 as LAYOUT
from biomamba.runtime.errors import CheckpointError


def published(**changes: Any) -> dict[str, Any]:
    """Return the config.json of state-spaces/mamba-130m: no tie_embeddings, an empty ssm_cfg."""
    raw = {
        "d_model": 768,
        "n_layer": 24,
        "vocab_size": 50277,
        "ssm_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
    }
    return raw | changes


@pytest.mark.parametrize("mixer", [{}, {"layer": "Mamba1"}])
def test_published_config_is_the_130m_scale(mixer: dict[str, Any]) -> None:
    config = LAYOUT.parse(published(ssm_cfg=mixer), "config.json")

    assert config == Mamba1Config(d_model=768, n_layer=24, vocab_size=50_277)
    assert config.padded_vocab_size == 50_280


def test_default_config_renders_as_published_but_says_what_it_is() -> None:
    config = Mamba1Config(d_model=768, n_layer=24, vocab_size=50_277)

    expected = published(ssm_cfg={"layer": "Mamba1"}, tie_embeddings=True)
    assert LAYOUT.render(config) == expected


def test_every_field_survives_the_round_trip() -> None:
    config = Mamba1Config(
        d_model=64,
        n_layer=2,
        vocab_size=300,
        d_state=8,
        d_conv=3,
        expand=4,
        dt_rank=3,
        norm_eps=1e-6,
        pad_vocab_size_multiple=16,
        tie_embeddings=False,
        residual_in_fp32=False,
        dt_min=0.01,
        dt_max=0.2,
        dt_init="constant",
        dt_scale=2.0,
        dt_init_floor=1e-3,
        initializer_range=0.1,
    )

    assert LAYOUT.parse(LAYOUT.render(config), "config.json") == config


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        ({"headdim": 64}, "ssm_cfg.headdim is an unknown key"),
        ({"conv_bias": False}, "ssm_cfg.conv_bias is False, only True"),
        ({"dt_rank": "wide"}, "dt_rank='wide'"),
    ],
)
def test_other_mixer_is_refused(mixer: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        LAYOUT.parse(published(ssm_cfg=mixer), "config.json")


def test_every_parameter_has_a_name() -> None:
    names = LAYOUT.stored_names(Mamba1Config(d_model=768, n_layer=24, vocab_size=50_277))

    assert len(names) == 24 * 10 + 2
