"""AdamW and its parameter groups."""

import pytest
import torch
from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling

from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.model.lora import Adaptation, Lora
from biomamba.training.optimizer import AdamW, rates_to_log

SETTINGS = AdamW(lr=0.1, weight_decay=0.5)


def _model(num_layers: int = 2) -> MambaLM:
    config = Mamba2Config(d_model=8, n_layer=num_layers, vocab_size=16, d_state=4, headdim=4)
    return MambaLM(config, ReferenceScan())


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


def test_rates_fall_with_depth_and_decay_stays_where_it_was() -> None:
    model = _model(num_layers=4)
    optimizer = AdamW(lr=0.1, weight_decay=0.5, layer_decay=0.5).build(model)
    found = {g["name"]: (g["lr_factor"], g["weight_decay"]) for g in optimizer.param_groups}
    # The last layer, the embedding (also head) and the last norm keep the whole rate.
    assert found == {
        "decay": (1.0, 0.5),
        "no_decay": (1.0, 0.0),
        "layer_00/decay": (0.125, 0.5),
        "layer_00/no_decay": (0.125, 0.0),
        "layer_01/decay": (0.25, 0.5),
        "layer_01/no_decay": (0.25, 0.0),
        "layer_02/decay": (0.5, 0.5),
        "layer_02/no_decay": (0.5, 0.0),
        "layer_03/decay": (1.0, 0.5),
        "layer_03/no_decay": (1.0, 0.0),
    }
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        prefix, _, kind = group["name"].rpartition("/")
        for parameter in group["params"]:
            name = names.pop(id(parameter))
            place = f"layers.{int(prefix[6:])}." if prefix else ("embedding", "norm_f")
            assert any(part in name for part in ([place] if prefix else place))
            assert (parameter.ndim > 1) is (kind == "decay")
    assert not names


def test_the_rates_of_the_paper_come_out() -> None:
    # 5e-6 x 0.95^23 = 1.54e-6: the rate that the released code logged for its 24 layers.
    groups = AdamW(lr=5e-6, weight_decay=0.1, layer_decay=0.95).build(_model(24)).param_groups
    factors = {group["name"]: group["lr_factor"] for group in groups}
    assert 5e-6 * factors["layer_00/decay"] == pytest.approx(1.5369e-6, rel=1e-4)


def test_few_rates_are_logged() -> None:
    groups = [
        {"name": name, "lr": float(number)} for number, name in enumerate(["decay", "no_decay"])
    ]
    assert rates_to_log(groups) == {"decay": 0.0, "no_decay": 1.0}
    groups += [
        {"name": f"layer_{layer:02d}/{kind}", "lr": 10.0 * layer}
        for layer in range(24)
        for kind in ("decay", "no_decay")
    ]
    layers = {"layer_00": 0.0, "layer_12": 120.0, "layer_23": 230.0}
    assert rates_to_log(groups) == {"decay": 0.0, "no_decay": 1.0} | layers


def test_a_loss_scaler_unscales_before_the_step() -> None:
    # Else the gradients would be clipped while they are still scaled.
    assert not _optimizer_handles_unscaling(SETTINGS.build(_model()))


def test_frozen_parameters_are_left_out() -> None:
    model = _model()
    model.backbone.embedding.requires_grad_(requires_grad=False)
    optimizer = SETTINGS.build(model)
    grouped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(model.backbone.embedding.weight) not in grouped


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_adapters_alone_are_held_and_decay_as_matrices(layer_decay: float) -> None:
    model = _model(num_layers=3)
    lora = Lora(rank=2, alpha=2.0, targets=["in_proj", "embedding"])
    Adaptation(lora=lora, train=["*.dt_bias"]).apply(model)
    groups = AdamW(lr=0.1, weight_decay=0.5, layer_decay=layer_decay).build(model).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(p)]: (group["lr_factor"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }
    expected = {f"backbone.embedding.lora_{m}": (1.0, 0.5) for m in "ab"}
    for layer in range(3):
        factor, prefix = layer_decay ** (2 - layer), f"backbone.layers.{layer}.mixer"
        expected |= {f"{prefix}.in_proj.lora_{matrix}": (factor, 0.5) for matrix in "ab"}
        expected[f"{prefix}.dt_bias"] = (factor, 0.0)
    assert found == expected


def test_half_precision_master_weights_are_refused() -> None:
    with pytest.raises(TypeError, match=r"must be float32, got .*bfloat16"):
        SETTINGS.build(_model().bfloat16())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr must be a finite number above 0, found 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be .* at least 0, found -"),
        ({"betas": (0.9, 1.0)}, "betas.1. must be .* below 1, found 1.0"),
        ({"layer_decay": 0.0}, "layer_decay must be .* above 0 and at most 1, found 0.0"),
        ({"layer_decay": 1.1}, "layer_decay must be .* above 0 and at most 1, found 1.1"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdamW(**({"lr": 0.1, "weight_decay": 0.0} | changes))  # type: ignore[arg-type]
