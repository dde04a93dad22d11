"""AdamW and its parameter groups."""

import pytest
import torch

from biomamba.model.backends.reference import ReferenceSSD
from biomamba.model.config import Mamba2Config
from biomamba.model.mamba2 import Mamba2LM
from biomamba.training.optimizer import AdamW

SETTINGS = AdamW(lr=0.1, weight_decay=0.5)


def _model() -> Mamba2LM:
    config = Mamba2Config(d_model=8, n_layer=2, vocab_size=16, d_state=4, headdim=4)
    return Mamba2LM(config, ReferenceSSD())


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = _model()
    groups = SETTINGS.build(model).param_groups
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_only_matrices_decay() -> None:
    model = _model()
    optimizer = SETTINGS.build(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # Without a gradient, a decayed weight shrinks by 1 - lr * weight_decay = 0.95; others stay.
    for name, parameter in model.named_parameters():
        shrunk = ("A_log", "D", "dt_bias", "norm.weight", "norm_f.weight", "bias")
        factor = 1.0 if name.endswith(shrunk) else 0.95
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_frozen_parameters_are_left_out() -> None:
    model = _model()
    model.backbone.embedding.requires_grad_(requires_grad=False)
    optimizer = SETTINGS.build(model)
    grouped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(model.backbone.embedding.weight) not in grouped


def test_half_precision_master_weights_are_refused() -> None:
    with pytest.raises(TypeError, match=r"must be float32, got .*bfloat16"):
        SETTINGS.build(_model().bfloat16())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative, got -1.0"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdamW(**({"lr": 0.1, "weight_decay": 0.0} | changes))  # type: ignore[arg-type]
