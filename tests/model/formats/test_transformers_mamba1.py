import json
from pathlib import Path
from typing import Any

import pytest

from biomamba.model.config import Mamba1Config
from biomamba.model.formats.layouts import TRANSFORMERS_MAMBA1 as LAYOUT
from biomamba.runtime.errors import CheckpointError


def published(**changes: Any) -> dict[str, Any]:
    """Return the config.json of state-spaces/mamba-130m-hf, with keys of both libraries."""
    raw = {
        "architectures": ["MambaForCausalLM"],
        "bos_token_id": 0,
        "conv_kernel": 4,
        "d_inner": 1536,
        "d_model": 768,
        "eos_token_id": 0,
        "expand": 2,
        "fused_add_norm": True,
        "hidden_act": "silu",
        "hidden_size": 768,
        "initializer_range": 0.1,
        "intermediate_size": 1536,
        "layer_norm_epsilon": 1e-05,
        "model_type": "mamba",
        "n_layer": 24,
        "num_hidden_layers": 24,
        "pad_token_id": 0,
        "pad_vocab_size_multiple": 8,
        "rescale_prenorm_residual": False,
        "residual_in_fp32": True,
        "rms_norm": True,
        "ssm_cfg": {},
        "state_size": 16,
        "time_step_floor": 0.0001,
        "time_step_init_scheme": "random",
        "time_step_max": 0.1,
        "time_step_min": 0.001,
        "time_step_rank": 48,
        "time_step_scale": 1.0,
        "torch_dtype": "float32",
        "transformers_version": "4.39.0.dev0",
        "use_bias": False,
        "use_cache": True,
        "use_conv_bias": True,
        "vocab_size": 50280,
    }
    return raw | changes


def test_published_config_is_the_130m_scale_with_the_padded_vocabulary() -> None:
    config = LAYOUT.parse(published(), "config.json")

    assert config == Mamba1Config(
        d_model=768,
        n_layer=24,
        vocab_size=50_280,
        pad_vocab_size_multiple=1,
        dt_rank=48,
        initializer_range=0.1,
    )


@pytest.mark.parametrize("rank", ["auto", 3])
def test_every_field_survives_the_round_trip(rank: int | str) -> None:
    config = Mamba1Config(
        d_model=64,
        n_layer=2,
        vocab_size=300,
        d_state=8,
        d_conv=3,
        expand=4,
        dt_rank=rank,
        norm_eps=1e-6,
        pad_vocab_size_multiple=16,
        tie_embeddings=False,
        residual_in_fp32=False,
        dt_min=0.01,
        dt_max=0.2,
        dt_init="constant",
        dt_scale=2.0,
        dt_init_floor=1e-3,
        initializer_range=0.05,
    )

    assert LAYOUT.parse(LAYOUT.render(config), "config.json") == config


def test_defaults_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.MambaConfig().to_dict()

    for key in LAYOUT.fields:
        if key in theirs and key not in LAYOUT.required:
            assert LAYOUT.defaults[key] == theirs[key], key


def test_transformers_understands_what_is_written(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = Mamba1Config(d_model=64, n_layer=3, vocab_size=300, d_state=8)
    (tmp_path / "config.json").write_text(json.dumps(LAYOUT.render(config)))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)

    assert type(theirs) is transformers.MambaConfig
    assert (theirs.state_size, theirs.time_step_rank, theirs.vocab_size) == (8, 4, 304)
    assert theirs.tie_word_embeddings is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 768}, "intermediate_size is 768, but the other keys make it 1536"),
        ({"n_layer": 12}, "n_layer is 12, but the other keys make it 24"),
        ({"ssm_cfg": {"d_state": 8}}, "ssm_cfg.d_state is an unknown key"),
        ({"use_bias": True}, "use_bias is True, only False"),
        ({"head_dim": 64}, "head_dim is an unknown key"),
    ],
)
def test_other_model_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"here/config.json: .*{message}"):
        LAYOUT.parse(published(**changes), "here/config.json")
