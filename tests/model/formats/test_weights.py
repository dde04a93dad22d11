from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.model.config import Mamba2Config
from biomamba.model.formats.layouts import STATE_SPACES_MAMBA2
from biomamba.model.formats.tensors import Weights, own_tensors, parameter_shapes
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import CheckpointError

SOURCE = Path("here/model.safetensors")
EMBEDDING = "backbone.embedding.weight"


@pytest.fixture
def tensors(tiny_model: MambaLM) -> dict[str, Tensor]:
    return {name: t.detach().float() for name, t in tiny_model.state_dict().items()}


def refusal(tensors: dict[str, Tensor], config: Mamba2Config) -> str:
    with pytest.raises(CheckpointError) as error:
        Weights(tensors, config, SOURCE)
    assert str(error.value).startswith(f"{SOURCE}: ")
    return str(error.value)


def test_shapes_are_those_of_the_model(tiny_config: Mamba2Config, tiny_model: MambaLM) -> None:
    expected = {name: p.shape for name, p in tiny_model.named_parameters()}

    assert parameter_shapes(tiny_config) == expected


def test_tensors_are_given_as_they_are_stored(
    tensors: dict[str, Tensor], tiny_config: Mamba2Config
) -> None:
    half = {name: tensor.half() for name, tensor in tensors.items()}
    weights = Weights(half, tiny_config, SOURCE)

    assert list(weights) == list(parameter_shapes(tiny_config))
    assert all(weights[name] is half[name] for name in weights)


def test_flat_convolution_gets_its_shape(
    tensors: dict[str, Tensor], tiny_config: Mamba2Config
) -> None:
    name = "backbone.layers.1.mixer.conv1d.weight"
    whole = tensors[name]
    tensors[name] = whole.squeeze(1)

    assert torch.equal(Weights(tensors, tiny_config, SOURCE)[name], whole)


def test_all_wrong_tensors_are_listed(
    tensors: dict[str, Tensor], tiny_config: Mamba2Config
) -> None:
    del tensors["backbone.norm_f.weight"]
    tensors["backbone.layers.2.mixer.D"] = torch.zeros(4)
    tensors["backbone.layers.0.mixer.D"] = torch.zeros(5)
    tensors["backbone.layers.1.mixer.D"] = torch.zeros(4, dtype=torch.int8)
    message = refusal(tensors, tiny_config)

    assert "missing backbone.norm_f.weight" in message
    assert "unexpected backbone.layers.2.mixer.D" in message
    assert "backbone.layers.0.mixer.D is (5,), must be (4,)" in message
    assert "backbone.layers.1.mixer.D is torch.int8, must be float32, bfloat16" in message


def test_weights_of_another_model_do_not_fill_the_screen(tiny_config: Mamba2Config) -> None:
    tensors = {f"gpt_neox.layers.{i}.attention.weight": torch.zeros(1) for i in range(200)}
    message = refusal(tensors, tiny_config)

    assert "unexpected gpt_neox.layers.0.attention.weight" in message
    assert "and 195 more" in message


@pytest.mark.parametrize("name", [EMBEDDING, "lm_head.weight"])
def test_other_vocabulary_is_named(tensors: dict[str, Tensor], name: str) -> None:
    config = Mamba2Config(
        d_model=16,
        n_layer=2,
        vocab_size=37,
        d_state=8,
        headdim=8,
        ngroups=2,
        tie_embeddings=False,
    )
    tensors["lm_head.weight"] = tensors[EMBEDDING].clone()
    tensors[name] = torch.zeros(40, 16)
    message = refusal(tensors, config)

    assert f"{name} is (40, 16), but the vocabulary of its config.json is 37" in message
    assert "16 48 rows" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_number_that_is_not_finite_is_found(
    tensors: dict[str, Tensor], tiny_config: Mamba2Config, value: float
) -> None:
    name = "backbone.layers.1.mixer.out_proj.weight"
    tensors[name][-1, -1] = value
    weights = Weights(tensors, tiny_config, SOURCE)

    with pytest.raises(CheckpointError, match=f"{name} holds numbers that are not finite"):
        weights[name]


def test_equal_tied_head_is_accepted(tensors: dict[str, Tensor], tiny_config: Mamba2Config) -> None:
    tensors["lm_head.weight"] = tensors[EMBEDDING].clone()

    assert "lm_head.weight" not in Weights(tensors, tiny_config, SOURCE)


def test_different_tied_head_is_refused(
    tensors: dict[str, Tensor], tiny_config: Mamba2Config
) -> None:
    tensors["lm_head.weight"] = tensors[EMBEDDING] + 1

    assert "lm_head.weight differs from backbone.embedding.weight" in refusal(tensors, tiny_config)


def test_separate_head_must_be_there(tensors: dict[str, Tensor]) -> None:
    config = Mamba2Config(
        d_model=16, n_layer=2, vocab_size=37, d_state=8, headdim=8, ngroups=2, tie_embeddings=False
    )

    assert "missing lm_head.weight" in refusal(tensors, config)


def test_names_become_ours_and_unknown_ones_stay(tiny_config: Mamba2Config) -> None:
    stored: dict[str, Any] = {"backbone.embeddings.weight": 1, "other": 2}
    found = own_tensors(stored, STATE_SPACES_MAMBA2, tiny_config, SOURCE)

    assert found == {EMBEDDING: 1, "other": 2}


def test_tensor_under_two_names_is_refused(tiny_config: Mamba2Config) -> None:
    stored: dict[str, Any] = {"backbone.embeddings.weight": 1, EMBEDDING: 2}

    with pytest.raises(CheckpointError, match="there under two names"):
        own_tensors(stored, STATE_SPACES_MAMBA2, tiny_config, SOURCE)
