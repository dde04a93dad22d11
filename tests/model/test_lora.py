import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config
from biomamba.model.language_model import MambaLM
from biomamba.model.lora import Lora, LoraWeight, adapted_modules, merge_state
from biomamba.model.loss import linear_cross_entropy
from biomamba.model.mamba1 import StepProjection
from biomamba.runtime.errors import ConfigError

Draw = Callable[..., Tensor]
PROJECTIONS = Lora(rank=2, alpha=6.0, targets=["in_proj", "out_proj"])
ALL = Lora(rank=2, alpha=6.0, targets=["in_proj", "out_proj", "embedding"])


@pytest.fixture
def mamba1_model() -> MambaLM:
    torch.manual_seed(0)
    config = Mamba1Config(d_model=16, n_layer=2, vocab_size=37, d_state=8, dt_rank=3)
    return MambaLM(config, ChunkedScan(chunk_size=8)).double()


def fill(model: nn.Module) -> None:
    """Let every adapter matter."""
    with torch.no_grad():
        for _, module in adapted_modules(model):
            module.lora_b.normal_(std=0.3)


def adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


def test_every_module_of_a_target_gets_an_adapter(tiny_model: MambaLM) -> None:
    base = {name: p.shape for name, p in tiny_model.state_dict().items()}
    PROJECTIONS.add_to(tiny_model)
    found = {name: tuple(p.shape) for name, p in tiny_model.state_dict().items()}

    # d_inner 32, conv_channels 32 + 2 x 2 x 8 = 64, 4 heads: in_proj is (32 + 64 + 4, 16).
    expected = {
        f"backbone.layers.{layer}.mixer.{name}": shape
        for layer in range(2)
        for name, shape in {
            "in_proj.lora_a": (2, 16),
            "in_proj.lora_b": (100, 2),
            "out_proj.lora_a": (2, 32),
            "out_proj.lora_b": (16, 2),
        }.items()
    }
    assert {name: s for name, s in found.items() if name not in base} == expected
    assert {name: s for name, s in found.items() if name in base} == base


@pytest.mark.parametrize("target", ["x_proj", "dt_proj", "layers.1.mixer.in_proj"])
def test_any_linear_can_be_a_target(mamba1_model: MambaLM, target: str) -> None:
    Lora(rank=2, alpha=2.0, targets=[target, target]).add_to(mamba1_model)
    names = [name for name, _ in adapted_modules(mamba1_model)]

    layers = [1] if "layers" in target else [0, 1]
    assert names == [f"backbone.layers.{n}.mixer.{target.split('.')[-1]}" for n in layers]


def test_the_start_is_the_base_model_bit_by_bit(tiny_model: MambaLM, random_ids: Draw) -> None:
    model, ids = tiny_model.float(), random_ids(2, 9)
    with torch.no_grad():
        expected = model(ids)
        with torch.autocast("cpu", torch.bfloat16):
            expected_bf16 = model(ids)
        ALL.add_to(model)
        assert torch.equal(model(ids), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model(ids), expected_bf16)


def test_base_checkpoints_load_into_an_adapted_model(tiny_model: MambaLM, random_ids: Draw) -> None:
    other = MambaLM(tiny_model.config, ChunkedScan(chunk_size=8)).double()
    ALL.add_to(other)
    result = other.load_state_dict(tiny_model.state_dict(), strict=False)

    assert set(result.missing_keys) == set(adapters(other))
    assert not result.unexpected_keys
    torch.testing.assert_close(other(random_ids(1, 5)), tiny_model(random_ids(1, 5)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(5, 7, bias=True),
        lambda: nn.Embedding(7, 5),
        lambda: StepProjection(5, 7),
    ],
    ids=["linear", "embedding", "step_projection"],
)
def test_a_reader_of_the_weight_and_a_caller_get_the_same(make: Callable[[], nn.Module]) -> None:
    """Fused kernels read `out_proj.weight` and never call the module."""
    holder = nn.ModuleDict({"proj": make()}).double()
    Lora(rank=3, alpha=2.0, targets=["proj"]).add_to(holder)
    fill(holder)
    module: Any = holder["proj"]
    is_table = isinstance(module, nn.Embedding)
    given = torch.tensor([[1, 6], [0, 1]]) if is_table else torch.randn(2, 2, 5).double()
    plain: Any = copy.deepcopy(module)
    plain.__class__ = type(module).__mro__[2]  # the class without adapter, over the sum
    del plain.lora_a, plain.lora_b
    plain.weight = nn.Parameter((module.base + 2 / 3 * module.lora_b @ module.lora_a).detach())
    expected = plain(given)
    factor = torch.randn_like(expected)
    (expected * factor).sum().backward()
    torch.testing.assert_close(module.weight, plain.weight.detach(), check_dtype=True)
    torch.testing.assert_close(module(given), expected)

    # With W = base + s B A: dB = s dW A^T, dA = s B^T dW, d(base) = dW.
    slope = plain.weight.grad
    wanted = [slope, 2 / 3 * module.lora_b.T @ slope, 2 / 3 * slope @ module.lora_a.T]
    parameters = [module.base, module.lora_a, module.lora_b]
    read = module.weight
    bias = getattr(module, "bias", None)
    direct = {
        "embedding": lambda: F.embedding(given, read),
        "linear": lambda: F.linear(given, read, bias),
    }["embedding" if is_table else "linear"]
    if not isinstance(module, StepProjection):
        found = torch.autograd.grad((direct() * factor).sum(), parameters)
        torch.testing.assert_close(list(found), wanted)
    found = torch.autograd.grad((module(given) * factor).sum(), parameters)
    torch.testing.assert_close(list(found), wanted)


def test_a_call_never_forms_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    holder = nn.ModuleDict({"a": nn.Linear(5, 7), "b": nn.Embedding(7, 5)})
    Lora(rank=3, alpha=2.0, targets=["a", "b"]).add_to(holder)
    monkeypatch.delattr(LoraWeight, "weight")
    holder["a"](torch.randn(2, 5))
    holder["b"](torch.tensor([3]))


def test_every_adapter_learns_from_the_loss(tiny_model: MambaLM, random_ids: Draw) -> None:
    """The tied head reads the weight of the embedding; the blocks call their projections."""
    ALL.add_to(tiny_model)
    fill(tiny_model)
    tiny_model.requires_grad_(requires_grad=False)
    for parameter in adapters(tiny_model).values():
        parameter.requires_grad_()
    ids = random_ids(2, 9)
    hidden, _ = tiny_model.hidden(ids)
    linear_cross_entropy(
        hidden.flatten(0, 1), tiny_model.head_weight, ids.roll(-1, 1).flatten()
    ).backward()
    for name, parameter in tiny_model.named_parameters():
        assert (parameter.grad is not None) is ("lora_" in name), name
        if parameter.grad is not None:
            assert parameter.grad.abs().max() > 1e-6, name


def test_the_merged_model_computes_the_same(tiny_model: MambaLM, random_ids: Draw) -> None:
    ids = random_ids(2, 9)
    before = tiny_model(ids)
    ALL.add_to(tiny_model)
    fill(tiny_model)
    merged = MambaLM(tiny_model.config, ChunkedScan(chunk_size=8)).double()
    merged.load_state_dict(merge_state(tiny_model, tiny_model.state_dict()))

    torch.testing.assert_close(merged(ids), tiny_model(ids))
    assert (tiny_model(ids) - before).abs().max() > 0.01
    states = [model.initial_states(2) for model in (merged, tiny_model)]
    first = [m.step(ids[:, 0], s)[0] for m, s in zip((merged, tiny_model), states, strict=True)]
    torch.testing.assert_close(*first)


def test_gradients_survive_checkpointed_activations(tiny_model: MambaLM, random_ids: Draw) -> None:
    ALL.add_to(tiny_model)
    fill(tiny_model)
    ids, parameters = random_ids(2, 9), list(tiny_model.parameters())
    expected = torch.autograd.grad(tiny_model(ids).square().sum(), parameters)
    tiny_model.checkpoint_activations()
    actual = torch.autograd.grad(tiny_model(ids).square().sum(), parameters)

    torch.testing.assert_close(actual, expected)


def test_autocast_does_not_round_the_weight() -> None:
    holder = nn.ModuleDict({"proj": nn.Linear(32, 32)})
    Lora(rank=3, alpha=2.0, targets=["proj"]).add_to(holder)
    fill(holder)
    expected = holder["proj"].weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(holder["proj"].weight, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank must be .* at least 1, found 0"),
        ({"alpha": 0.0}, "alpha must be a finite number above 0, found 0.0"),
        ({"alpha": float("inf")}, "alpha must be a finite number above 0, found inf"),
        ({"targets": []}, "targets must name at least one module"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lora(**({"rank": 1, "alpha": 1.0, "targets": ["in_proj"]} | changes))


@pytest.mark.parametrize("target", ["q_proj", "conv1d", "norm", "lm_head", "proj"])
def test_a_target_that_is_no_matrix_of_the_model_is_refused(
    tiny_model: MambaLM, target: str
) -> None:
    lora = Lora(rank=1, alpha=1.0, targets=["in_proj", target])
    with pytest.raises(ConfigError, match=f"'{target}' .* embedding, in_proj, out_proj .*tied"):
        lora.add_to(tiny_model)
    assert not list(adapted_modules(tiny_model))


def test_a_rank_that_adds_nothing_is_refused(tiny_model: MambaLM) -> None:
    lora = Lora(rank=17, alpha=1.0, targets=["in_proj"])
    with pytest.raises(
        ConfigError, match=r"rank is 17, but .*in_proj is \(100, 16\): more than 16"
    ):
        lora.add_to(tiny_model)
