"""Histograms and norms by layer: of the right tensors, at the right steps."""

from collections.abc import Callable
from typing import Any

import lightning
import pytest
import torch
from tensorboard.util.tensor_util import make_ndarray
from torch.nn import functional as F

from biomamba.runtime.errors import ConfigError
from biomamba.training.callbacks.tensorboard import Histograms, gradient_norms, spreads

NewRun = Callable[[str], Any]
LAYERS = ("layer_00", "layer_01", "outside_layers")


def values(run: Any, tag: str) -> dict[int, float]:
    return {e.step: float(make_ndarray(e.tensor_proto)) for e in run.events.Tensors(tag)}


def test_a_stopped_run_has_every_point_once(small_run: NewRun) -> None:
    whole = small_run("whole").start([Histograms(4)])
    stopped = small_run("stopped")
    stopped.start([Histograms(4)], stop=5)
    stopped.start([Histograms(4)], resume=3)
    found = stopped.steps()
    assert found == whole.steps()
    for tag in ("A/layer_01", "dt/layer_00", "weights/layer_00/in_proj.weight"):
        assert found[tag] == [1, 4, 8]
    for name, value in whole.module.state_dict().items():
        assert torch.equal(stopped.module.state_dict()[name], value), name


def test_norms_of_the_layers_add_up_to_that_of_the_step(small_run: NewRun) -> None:
    run = small_run("run").start([Histograms(4)])
    norms = [values(run, f"gradient_norm/{layer}") for layer in LAYERS]
    whole = values(run, "train/grad_norm")
    for step in (1, 4, 8):
        total = sum(found[step] ** 2 for found in norms) ** 0.5
        assert total == pytest.approx(whole[step], rel=1e-5)
        assert total > 0.1  # the limit: norms before clipping


def test_what_is_spread(small_run: NewRun) -> None:
    module = small_run("run")._new_module()
    mixer = module.model.backbone.layers[1].mixer
    found = dict(spreads(module))
    assert torch.equal(found["A/layer_01"], mixer.A_log.exp())
    assert torch.equal(found["dt/layer_01"], F.softplus(mixer.dt_bias))
    assert torch.equal(found["weights/outside_layers/norm_f.weight"], torch.ones(8))
    mixer.A_log.requires_grad_(requires_grad=False)
    mixer.D.data[0] = float("nan")
    found = dict(spreads(module))
    assert "A/layer_01" not in found
    assert len(found["weights/layer_01/D"]) == len(mixer.D) - 1
    assert gradient_norms(module) == {}


def test_a_large_tensor_gives_values_of_all_its_columns() -> None:
    module = torch.nn.Linear(1_024, 512, bias=False)
    module.weight.data = torch.arange(1_024.0).repeat(512, 1)
    ((tag, found),) = spreads(module)
    assert tag == "weights/outside_layers/weight"
    assert 50_000 < len(found) <= 65_536
    assert len(found.unique()) == 1_024


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"every_n_steps must be .* at least 1, found 0"):
        Histograms(0)
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(ConfigError, match="writes to TensorBoard alone"):
        Histograms().setup(trainer, lightning.LightningModule(), "fit")
