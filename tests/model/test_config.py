from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.language_model import MambaLM

SCALES = Path(__file__).resolve().parents[2] / "conf" / "model"
# state-spaces/mamba*: parameters with the embedding padded to 50,280 (Mamba-1) or 50,288 rows and a
# tied head.
PUBLISHED = {
    "mamba1_130m": 129_135_360,
    "mamba2_130m": 128_989_632,
    "mamba2_370m": 368_346_624,
    "mamba2_780m": 780_161_280,
    "mamba2_1_3b": 1_343_757_312,
    "mamba2_2_7b": 2_702_599_680,
}
OWN = {
    "mamba1_tiny": 2_000_000,
    "mamba2_tiny": 2_000_000,
    "mamba1_small": 7_000_000,
    "mamba2_small": 7_000_000,
}


def load_scale(name: str) -> tuple[MambaConfig, str]:
    """Return the config of a model option and the comment in its first line."""
    stems = ("_base", f"_{name.split('_')[0]}", name)
    texts = [(SCALES / f"{stem}.yaml").read_text(encoding="utf-8") for stem in stems]
    fields = {k: v for text in texts for k, v in yaml.safe_load(text)["config"].items()}
    target = fields.pop("_target_").rpartition(".")[2]
    kinds: dict[str, type[MambaConfig]] = {k.__name__: k for k in (Mamba1Config, Mamba2Config)}
    return kinds[target](**fields), texts[-1].splitlines()[0]


def count_on_meta(config: MambaConfig) -> int:
    with torch.device("meta"):
        model = MambaLM(config, ChunkedScan())
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_scale_has_the_published_number_of_parameters(name: str) -> None:
    config, comment = load_scale(name)

    assert count_on_meta(config) == config.num_parameters() == PUBLISHED[name]
    assert f"{PUBLISHED[name]:,}" in comment


@pytest.mark.parametrize("name", OWN)
def test_own_scale_states_its_number_of_parameters(name: str) -> None:
    config, comment = load_scale(name)

    assert count_on_meta(config) == config.num_parameters() < OWN[name]
    assert f"{config.num_parameters():,}" in comment


def test_every_scale_is_counted() -> None:
    scales = {path.stem for path in SCALES.glob("mamba*.yaml")}

    assert scales == PUBLISHED.keys() | OWN.keys()


def test_untied_head_counts_twice(tiny_config: Mamba2Config) -> None:
    untied = Mamba2Config(**{**vars(tiny_config), "tie_embeddings": False})

    assert untied.num_parameters() - tiny_config.num_parameters() == 48 * 16
    assert count_on_meta(untied) == untied.num_parameters()


def test_derived_sizes_of_130m() -> None:
    config = Mamba2Config(d_model=768, n_layer=24, vocab_size=50_277)

    assert (config.d_inner, config.nheads) == (1_536, 24)
    assert config.conv_channels == 1_536 + 2 * 128
    assert config.padded_vocab_size == 50_288


def test_list_from_yaml_becomes_a_tuple() -> None:
    config = Mamba2Config(d_model=64, n_layer=1, vocab_size=8, A_init_range=[1, 4])

    assert config.A_init_range == (1.0, 4.0)
    assert hash(config)


def test_derived_sizes_of_mamba1_130m() -> None:
    config = Mamba1Config(d_model=768, n_layer=24, vocab_size=50_277)

    assert (config.d_inner, config.step_rank, config.conv_channels) == (1_536, 48, 1_536)
    assert config.padded_vocab_size == 50_280


def test_dt_rank_counts() -> None:
    config = Mamba1Config(d_model=40, n_layer=2, vocab_size=8)
    wider = Mamba1Config(d_model=40, n_layer=2, vocab_size=8, dt_rank=5)

    assert config.step_rank == 3  # 40 / 16, rounded up
    # A column of x_proj and one of dt_proj for each further place, in both layers.
    assert wider.num_parameters() - config.num_parameters() == 2 * 2 * (80 + 80)


def test_order_and_repetition_of_static_do_not_matter() -> None:
    sizes: dict[str, Any] = {"d_model": 64, "n_layer": 1, "vocab_size": 8}

    assert Mamba1Config(**sizes, static=["C", "dt", "C"]).static == ("dt", "C")
    assert Mamba1Config(**sizes, static=["C", "dt"]) == Mamba1Config(**sizes, static=["dt", "C"])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("d_state", 0, "d_state must be .*, found 0"),
        ("dt_rank", 0, "dt_rank must be .*, found 0"),
        ("dt_rank", True, "dt_rank must be a whole number .*, found True"),
        ("dt_rank", "full", "dt_rank='full': must be auto or an integer"),
        ("dt_init", "zero", "dt_init='zero': must be random or constant"),
        ("dt_scale", 0.0, "dt_scale must be .*, found 0.0"),
        ("rms_norm", False, "rms_norm=False: only RMSNorm"),
        ("static", ["dt", "A"], r"static=\['dt', 'A'\]: must be a list of some of dt, B and C"),
        ("static", "B", "static='B': must be a list"),
    ],
)
def test_impossible_value_of_mamba1_is_refused(field: str, value: object, message: str) -> None:
    fields = {"d_model": 64, "n_layer": 1, "vocab_size": 8, field: value}

    with pytest.raises(ValueError, match=message):
        Mamba1Config(**fields)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("d_model", 0, "d_model must be .*, found 0"),
        ("n_layer", 1.5, "n_layer must be a whole number .*, found 1.5"),
        ("n_layer", True, "n_layer must be a whole number .*, found True"),
        ("headdim", 48, "headdim=48: must divide d_inner = expand [*] d_model = 2 [*] 64 = 128"),
        ("ngroups", 3, "ngroups=3: must divide the number of heads, .* = 2"),
        ("rms_norm", False, "rms_norm=False: only RMSNorm"),
        ("norm_eps", 0.0, "norm_eps must be .*, found 0.0"),
        ("dt_min", 0.2, "dt_min=0.2: must not exceed dt_max=0.1"),
        ("A_init_range", (16, 1), r"A_init_range=\(16.0, 1.0\): must be two numbers"),
    ],
)
def test_impossible_value_is_refused(field: str, value: object, message: str) -> None:
    fields = {"d_model": 64, "n_layer": 1, "vocab_size": 8, field: value}

    with pytest.raises(ValueError, match=message):
        Mamba2Config(**fields)
