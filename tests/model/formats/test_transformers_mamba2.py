import json
from pathlib import Path
from typing import Any

import pytest

from biomamba.model.config import Mamba2Config
from biomamba.model.formats.layouts import TRANSFORMERS_MAMBA2 as LAYOUT
from biomamba.runtime.errors import CheckpointError


def published(**changes: Any) -> dict[str, Any]:
    """Return a config.json as transformers 4 wrote it for the converted 130m model."""
    raw = {
        "architectures": ["Mamba2ForCausalLM"],
        "bos_token_id": 0,
        "chunk_size": 256,
        "conv_kernel": 4,
        "eos_token_id": 0,
        "expand": 2,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 768,
        "initializer_range": 0.1,
        "layer_norm_epsilon": 1e-05,
        "model_type": "mamba2",
        "n_groups": 1,
        "norm_before_gate": False,
        "num_heads": 24,
        "num_hidden_layers": 24,
        "pad_token_id": 0,
        "rescale_prenorm_residual": False,
        "residual_in_fp32": True,
        "rms_norm": True,
        "state_size": 128,
        "tie_word_embeddings": True,
        "time_step_floor": 0.0001,
        "time_step_limit": [0.0, float("inf")],
        "time_step_max": 0.1,
        "time_step_min": 0.001,
        "time_step_rank": 48,
        "torch_dtype": "float32",
        "transformers_version": "4.44.0",
        "use_bias": False,
        "use_cache": True,
        "use_conv_bias": True,
        "vocab_size": 50288,
    }
    return raw | changes


def test_published_config_is_the_130m_scale_with_the_padded_vocabulary() -> None:
    config = LAYOUT.parse(published(), "config.json")

    assert config == Mamba2Config(
        d_model=768,
        n_layer=24,
        vocab_size=50_288,
        pad_vocab_size_multiple=1,
        initializer_range=0.1,
    )


@pytest.mark.parametrize("infinity", [float("inf"), "Infinity", {"__float__": "Infinity"}])
def test_infinity_is_read_in_every_spelling(infinity: Any) -> None:
    LAYOUT.parse(published(time_step_limit=[0.0, infinity]), "config.json")


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
        initializer_range=0.05,
    )

    assert LAYOUT.parse(LAYOUT.render(config), "config.json") == config


def test_defaults_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Mamba2Config().to_dict()

    for key in LAYOUT.fields:
        if key in theirs and key not in LAYOUT.required:
            assert LAYOUT.defaults[key] == theirs[key], key


def test_transformers_understands_what_is_written(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = Mamba2Config(d_model=64, n_layer=3, vocab_size=300, d_state=16, headdim=16, ngroups=2)
    (tmp_path / "config.json").write_text(json.dumps(LAYOUT.render(config)))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)

    assert type(theirs) is transformers.Mamba2Config
    assert (theirs.num_heads, theirs.n_groups, theirs.vocab_size) == (8, 2, 304)
    assert theirs.tie_word_embeddings is True
    assert theirs.biomamba["vocab_size"] == 300


def test_what_transformers_writes_is_understood(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Mamba2Config(
        hidden_size=32, num_heads=4, head_dim=16, num_hidden_layers=2, vocab_size=48, n_groups=2
    )
    theirs.save_pretrained(tmp_path)
    config = LAYOUT.parse(json.loads((tmp_path / "config.json").read_text()), "config.json")

    assert isinstance(config, Mamba2Config)
    assert (config.d_model, config.nheads, config.ngroups, config.vocab_size) == (32, 4, 2, 48)
    assert not config.tie_embeddings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 23}, "contradicts itself: num_heads is 23, but the other keys make it 24"),
        ({"d_inner": 768}, "d_inner is 768, but the other keys make it 1536"),
        ({"biomamba": {"vocab_size": 9}}, "vocab_size is 50288, but the other keys make it 9"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', only 'silu' is implemented"),
        ({"use_bias": True}, "use_bias is True, only False"),
        ({"time_step_limit": [0.0, 0.1]}, "time_step_limit"),
        ({"attention_heads": 4}, "attention_heads is an unknown key"),
        ({"biomamba": {"depth": 9}}, "biomamba.depth is an unknown key"),
    ],
)
def test_other_model_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"here/config.json: .*{message}"):
        LAYOUT.parse(published(**changes), "here/config.json")
