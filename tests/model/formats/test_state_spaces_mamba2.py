from typing import Any

import pytest

from biomamba.model.config import Mamba2Config
from biomamba.model.formats.layouts import STATE_SPACES_MAMBA2 as LAYOUT
from biomamba.runtime.errors import CheckpointError


def published(**changes: Any) -> dict[str, Any]:
    """Return the config.json of state-spaces/mamba2-130m."""
    raw = {
        "d_model": 768,
        "d_intermediate": 0,
        "n_layer": 24,
        "vocab_size": 50277,
        "ssm_cfg": {"layer": "Mamba2"},
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 16,
        "tie_embeddings": True,
    }
    return raw | changes


def test_published_config_is_the_130m_scale() -> None:
    config = LAYOUT.parse(published(), "config.json")

    assert config == Mamba2Config(d_model=768, n_layer=24, vocab_size=50_277)


def test_mixer_overrides_are_read() -> None:
    mixer = {"layer": "Mamba2", "d_state": 64, "headdim": 32, "ngroups": 4, "chunk_size": 128}
    config = LAYOUT.parse(published(ssm_cfg=mixer), "config.json")

    assert isinstance(config, Mamba2Config)
    assert (config.d_state, config.headdim, config.ngroups, config.chunk_size) == (64, 32, 4, 128)


def test_default_config_renders_as_published() -> None:
    config = Mamba2Config(d_model=768, n_layer=24, vocab_size=50_277)

    assert LAYOUT.render(config) == published()


def test_every_field_survives_the_round_trip() -> None:
    config = Mamba2Config(
        d_model=64,
        n_layer=2,
        vocab_size=300,
        d_state=16,
        d_conv=3,
        expand=4,
        headdim=16,
        ngroups=2,
        chunk_size=32,
        norm_eps=1e-6,
        pad_vocab_size_multiple=8,
        tie_embeddings=False,
        residual_in_fp32=False,
        A_init_range=(2.0, 8.0),
        dt_min=0.01,
        dt_max=0.2,
        dt_init_floor=1e-3,
        initializer_range=0.1,
    )

    assert LAYOUT.parse(LAYOUT.render(config), "config.json") == config


def test_missing_multiple_is_that_of_mamba_ssm() -> None:
    raw = published()
    del raw["pad_vocab_size_multiple"]

    assert LAYOUT.parse(raw, "config.json").padded_vocab_size == 50_280


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ssm_cfg": {"layer": "Mamba2", "dstate": 64}}, "ssm_cfg.dstate is an unknown key"),
        ({"ssm_cfg": {"layer": "Mamba2", "bias": True}}, "ssm_cfg.bias is True, only False"),
        ({"ssm_cfg": {"layer": "Mamba2", "dt_limit": [0.0, 0.1]}}, r"dt_limit is \[0.0, 0.1\]"),
        ({"d_intermediate": 1024}, "d_intermediate is 1024, only 0"),
        ({"attn_layer_idx": [3]}, r"attn_layer_idx is \[3\], only \[\]"),
        ({"dropout": 0.1}, "dropout is an unknown key"),
        ({"rms_norm": False}, "rms_norm=False"),
        ({"n_layer": "24"}, "n_layer must be a whole number .* found '24'"),
        ({"tie_embeddings": "yes"}, "tie_embeddings is 'yes', must be true or false"),
        ({"ssm_cfg": {"layer": "Mamba2", "headdim": 7}}, "headdim=7: must divide"),
    ],
)
def test_other_model_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"here/config.json: .*{message}"):
        LAYOUT.parse(published(**changes), "here/config.json")


def test_every_parameter_has_a_name() -> None:
    names = LAYOUT.stored_names(Mamba2Config(d_model=768, n_layer=24, vocab_size=50_277))

    assert len(names) == 24 * 9 + 2
    assert all(own == stored for own, stored in names.items())
