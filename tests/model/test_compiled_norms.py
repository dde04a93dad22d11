"""The norms that torch compiles give the numbers of the hand-written ones."""

import copy

import pytest
import torch
from torch import Tensor

from biomamba.model import norm as compiled_norms
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.checkpoint import build_model
from biomamba.model.config import Mamba1Config, Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.model.norm import GatedRMSNorm, RMSNorm, check_compiler, gated_rms_norm, rms_norm
from biomamba.runtime.errors import ConfigError

SIZE, EPS = 24, 1e-5
CONFIGS = [
    Mamba2Config(d_model=32, n_layer=2, vocab_size=64, d_state=16, headdim=16, ngroups=2),
    Mamba1Config(d_model=32, n_layer=2, vocab_size=64),
]


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()


@pytest.mark.parametrize("length", [0, 1, 7])
def test_the_formula_of_the_norm_is_that_of_the_module(length: int) -> None:
    norm = RMSNorm(SIZE, EPS).double()
    torch.nn.init.normal_(norm.weight)
    x = draw(2, length, SIZE, seed=0)
    found = rms_norm(x, norm.weight, EPS, torch.float64)
    torch.testing.assert_close(found, norm(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ngroups", [1, 3])
@pytest.mark.parametrize("has_skip", [False, True])
def test_the_formula_of_the_gated_norm_is_that_of_the_module(ngroups: int, has_skip: bool) -> None:
    norm = GatedRMSNorm(SIZE, EPS, ngroups).double()
    torch.nn.init.normal_(norm.weight)
    y, z, x = (draw(2, 5, SIZE, seed=seed) for seed in range(3))
    skip = (x, draw(SIZE, seed=3)) if has_skip else None
    found = gated_rms_norm((y, z), skip, norm.weight, (EPS, ngroups, torch.float64))
    torch.testing.assert_close(found, norm(y, z, skip), rtol=1e-12, atol=1e-12)


def gradients(model: MambaLM, ids: Tensor, *, is_half: bool) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        logits = model(ids, torch.arange(ids.shape[1]).ge(9).int().expand_as(ids))
    logits.float().square().mean().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {"logits": logits.detach()}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # torch warns of its own code while it compiles
@pytest.mark.parametrize("config", CONFIGS, ids=["mamba2", "mamba1"])
def test_a_model_with_compiled_norms_has_the_same_gradients(
    config: Mamba2Config | Mamba1Config,
) -> None:
    check_compiler()
    torch.manual_seed(0)
    plain = MambaLM(config, ChunkedScan(8))
    fused = copy.deepcopy(plain)
    fused.compile_norms()
    for length in (20, 13):
        ids = torch.randint(64, (2, length), generator=torch.Generator().manual_seed(length))
        exact = gradients(plain, ids, is_half=False)
        for name, found in gradients(fused, ids, is_half=False).items():
            # Roundings of sums of at most 64 products.
            assert distance(found, exact[name]) <= 64 * 2.0**-24, name
        # Roundings to bfloat16 fall here or there: on the whole not further off.
        off = [
            sum(distance(found, exact[name]) for name, found in half.items())
            for half in (gradients(model, ids, is_half=True) for model in (plain, fused))
        ]
        assert 0 < off[1] <= 1.5 * off[0]


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


def test_build_switches_them_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_on in (False, True):
        model = build_model(CONFIGS[0], ChunkedScan(8), compile_norms=is_on)
        norms = [m for m in model.modules() if isinstance(m, RMSNorm | GatedRMSNorm)]
        assert len(norms) == 2 * 2 + 1
        assert [norm.is_compiled for norm in norms] == [is_on] * len(norms)
    monkeypatch.setattr(compiled_norms.shutil, "which", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"no compiler for C\+\+ .*compile_norms=false"):
        build_model(CONFIGS[0], ChunkedScan(8), compile_norms=True)
