import pytest
import torch

from biomamba.model.language_model import MambaLM
from biomamba.model.lora import Adaptation, Lora, ParameterCount
from biomamba.runtime.errors import CheckpointError, ConfigError

LORA = Lora(rank=2, alpha=4.0, targets=["out_proj"])


def trained(model: MambaLM) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def names_ending(model: MambaLM, *ends: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.endswith(ends)}


def test_without_settings_all_is_trained(tiny_model: MambaLM) -> None:
    Adaptation().apply(tiny_model)

    assert trained(tiny_model) == names_ending(tiny_model, "")


def test_with_adapters_only_these_are_trained(tiny_model: MambaLM) -> None:
    Adaptation(lora=LORA).apply(tiny_model)

    assert trained(tiny_model) == names_ending(tiny_model, "lora_a", "lora_b")
    assert len(trained(tiny_model)) == 4


def test_chosen_parts_are_trained_besides_adapters(tiny_model: MambaLM) -> None:
    Adaptation(lora=LORA, train=["*.A_log", "backbone.norm_f.*"]).apply(tiny_model)

    assert trained(tiny_model) == names_ending(
        tiny_model, "lora_a", "lora_b", "A_log", "norm_f.weight"
    )


def test_frozen_parts_win(tiny_model: MambaLM) -> None:
    Adaptation(train=["*.mixer.*"], freeze=["*.mixer.conv1d.*", "*.D"]).apply(tiny_model)
    mixer = {name for name in names_ending(tiny_model, "") if ".mixer." in name}

    assert trained(tiny_model) == mixer - names_ending(
        tiny_model, "conv1d.weight", "conv1d.bias", ".D"
    )


def test_what_is_frozen_gets_no_gradient(tiny_model: MambaLM) -> None:
    Adaptation(freeze=["backbone.embedding.weight"]).apply(tiny_model)
    tiny_model(torch.tensor([[1, 2]])).sum().backward()
    with_grad = {name for name, p in tiny_model.named_parameters() if p.grad is not None}

    assert with_grad == names_ending(tiny_model, "") - {"backbone.embedding.weight"}


@pytest.mark.parametrize("key", ["train", "freeze"])
def test_a_pattern_that_matches_nothing_is_refused(tiny_model: MambaLM, key: str) -> None:
    settings = {key: ["*.A_log", "mixer.in_proj.weight"]}
    message = rf"'mixer.in_proj.weight' of model.adaptation.{key} matches no .*in_proj.weight"
    with pytest.raises(ConfigError, match=message):
        Adaptation(**settings).apply(tiny_model)


def test_nothing_to_train_is_refused(tiny_model: MambaLM) -> None:
    with pytest.raises(ConfigError, match=r"leaves nothing to train: .*freeze=\['\*'\]"):
        Adaptation(lora=LORA, freeze=["*"]).apply(tiny_model)


def test_an_adapter_needs_a_place(tiny_model: MambaLM) -> None:
    with pytest.raises(ValueError, match="adapter=runs/x/model needs lora"):
        Adaptation(adapter="runs/x/model")
    with pytest.raises(CheckpointError, match=r"nowhere/adapter.json: cannot be read"):
        Adaptation(lora=LORA, adapter="nowhere").apply(tiny_model)


def test_parameters_are_counted(tiny_model: MambaLM) -> None:
    total = tiny_model.config.num_parameters()
    assert ParameterCount.of(tiny_model) == ParameterCount(total, total)
    Adaptation(lora=LORA).apply(tiny_model)
    # Two layers, out_proj (16, 32), rank 2: 2 x 2 x (16 + 32).
    assert ParameterCount.of(tiny_model) == ParameterCount(total + 192, 192)
