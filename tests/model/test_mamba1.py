import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config
from biomamba.model.language_model import MambaLM, make_mixer, no_decay_parameter_names
from biomamba.model.mamba1 import Mamba1Mixer, StepProjection


def fresh(**fields: object) -> Mamba1Mixer:
    config = Mamba1Config(**{"d_model": 256, "n_layer": 4, "vocab_size": 8} | fields)
    mixer = make_mixer(config, ChunkedScan())
    assert isinstance(mixer, Mamba1Mixer)
    return mixer


def test_initial_decay_rates_count_up_in_every_channel() -> None:
    rates = fresh(d_state=5).A_log.exp()

    torch.testing.assert_close(rates, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).expand(512, 5))


def test_initial_steps_are_log_uniform() -> None:
    dt = F.softplus(fresh().dt_proj.bias)

    assert dt.min() >= 0.000999
    assert dt.max() <= 0.1001
    assert abs(dt.log10().mean().item() + 2.0) < 0.1  # 512 draws: standard error 0.026


def test_dt_init_floor_is_a_floor() -> None:
    dt = F.softplus(fresh(dt_init_floor=0.05).dt_proj.bias)

    assert math.isclose(dt.min().item(), 0.05, rel_tol=1e-4)


def test_initial_scales() -> None:
    mixer = fresh(dt_scale=3.0)

    assert (mixer.D == 1).all()
    assert 0.98 < mixer.in_proj.weight.abs().max() * math.sqrt(256) <= 1.0
    assert 0.98 < mixer.x_proj.weight.abs().max() * math.sqrt(512) <= 1.0
    # dt_proj: dt_scale, divided by sqrt(dt_rank)
    assert 0.98 < mixer.dt_proj.weight.abs().max() * math.sqrt(16) / 3 <= 1.0
    # out_proj: 1 / sqrt(d_inner), divided by sqrt(n_layer)
    assert 0.98 < mixer.out_proj.weight.abs().max() * math.sqrt(512) * 2 <= 1.0
    assert (fresh(dt_init="constant").dt_proj.weight == 1 / math.sqrt(16)).all()


def test_state_dict_has_the_state_spaces_names() -> None:
    expected = {"in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "A_log", "D"}
    expected |= {"dt_proj.weight", "dt_proj.bias", "out_proj.weight"}

    assert set(fresh().state_dict()) == expected


def test_no_decay_for_everything_but_the_maps_of_vectors() -> None:
    config = Mamba1Config(d_model=16, n_layer=1, vocab_size=8)
    model = MambaLM(config, ChunkedScan())
    names = set(dict(model.named_parameters()))
    decayed = {f"{part}_proj.weight" for part in ("in", "x", "dt", "out")}
    decayed = {f"backbone.layers.0.mixer.{name}" for name in decayed | {"conv1d.weight"}}

    expected = names - decayed - {"backbone.embedding.weight"}
    assert no_decay_parameter_names(model) == expected
    assert "backbone.layers.0.mixer.A_log" in expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_step_sizes_are_not_rounded_to_half_precision(dtype: torch.dtype) -> None:
    projection = StepProjection(2, 3)
    with torch.autocast("cpu", dtype):
        found = projection(torch.zeros(1, 2))

    assert found.dtype == torch.float32
    assert torch.equal(found, projection.bias.unsqueeze(0))


def test_no_decay_for_static_maps() -> None:
    config = Mamba1Config(d_model=16, n_layer=1, vocab_size=8, static=["dt", "B", "C"])
    found = no_decay_parameter_names(MambaLM(config, ChunkedScan()))

    assert {f"backbone.layers.0.mixer.{name}" for name in ("dt_bias", "B", "C", "A_log")} <= found


def test_static_parameters_start_as_those_of_s4d() -> None:
    mixer = fresh(static=["dt", "B", "C"])
    dt, B, C = (mixer.get_parameter(name) for name in ("dt_bias", "B", "C"))
    dt = F.softplus(dt)

    assert 0.000999 <= dt.min() <= dt.max() <= 0.1001
    assert (B == 1).all()
    assert C.shape == (512, 16)
    assert abs(C.std().item() - 1) < 0.03  # 8,192 draws: standard error 0.008
    assert set(mixer.state_dict()) == {
        "in_proj.weight", "conv1d.weight", "conv1d.bias", "dt_bias", "B", "C", "A_log", "D",
        "out_proj.weight",
    }  # fmt: skip


@pytest.fixture
def twins() -> tuple[MambaLM, Any]:
    """Our model, in float32 with weights of which each matters, and transformers' with the same."""
    transformers = pytest.importorskip("transformers")
    config = Mamba1Config(d_model=16, n_layer=2, vocab_size=37, d_state=5, dt_rank=3)
    model = MambaLM(config, ChunkedScan())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    twin = transformers.MambaForCausalLM(
        transformers.MambaConfig(
            hidden_size=16, num_hidden_layers=2, vocab_size=40, state_size=5, time_step_rank=3
        )
    )
    weights = {n.replace("embedding.", "embeddings."): t for n, t in model.state_dict().items()}
    twin.load_state_dict(weights | {"lm_head.weight": model.head_weight})
    twin.tie_weights()
    return model, twin.eval()


def test_logits_loss_and_gradients_equal_transformers(twins: tuple[MambaLM, Any]) -> None:
    model, twin = twins
    ids = torch.randint(37, (2, 40))
    expected = twin(ids, labels=ids)
    logits = model(ids)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    # Float32 rounding of both, over 40 positions.
    torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=0)
    loss.backward()
    expected.loss.backward()
    theirs = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        other = theirs[name.replace("embedding.", "embeddings.")].grad
        torch.testing.assert_close(parameter.grad, other, rtol=1e-3, atol=1e-5, msg=name)


def test_greedy_continuation_equals_transformers(twins: tuple[MambaLM, Any]) -> None:
    model, twin = twins
    ids = torch.randint(37, (2, 5))
    theirs = twin.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.no_grad():
        _, states = model.hidden(ids[:, :-1])
        found, last = [ids], ids[:, -1]
        for _ in range(12):
            logits, states = model.step(last, states)
            last = logits.argmax(-1)
            found.append(last.unsqueeze(1))

    assert torch.equal(torch.cat(found, dim=1), theirs)
