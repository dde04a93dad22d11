"""How the kernel of liger-kernel is found, called and refused, on a stand-in with its signature.

The real kernel: tests/test_liger_loss.py (interpreted), and the tests marked gpu.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.model.loss import (
    _load_kernel,
    check_loss_kernel,
    fused_linear_cross_entropy,
    linear_cross_entropy,
    loss_of,
)
from biomamba.runtime.errors import ConfigError, DataError, MissingDependencyError

CPU, GPU = torch.device("cpu"), torch.device("cuda")
KERNEL = """
import torch
calls = []

class LigerFusedLinearCrossEntropyFunction:
    @staticmethod
    def apply(_input, weight, target, bias=None, ce_weight=None, ignore_index=-100,
              lse_square_scale=0.0, label_smoothing=0.0, reduction="mean", softcap=None,
              return_z_loss=False, accum_dtype=None, use_token_scaling=False,
              return_token_accuracy=False, return_predicted_tokens=False, ce_impl=None,
              ce_mode=None, chunk_mem_const=1):
        calls.append(dict(locals()))
        assert bias is ce_weight is softcap is None and lse_square_scale == label_smoothing == 0
        assert not (return_z_loss or use_token_scaling or return_token_accuracy)
        assert (return_predicted_tokens, ce_impl, ce_mode) == (False, None, None)
        logits = (_input @ weight.t()).float()
        nll = torch.nn.functional.cross_entropy(
            logits, target, reduction=reduction, ignore_index=ignore_index)
        return nll, None, None, None
"""


@pytest.fixture(autouse=True)
def _fresh_imports() -> Iterator[None]:
    _load_kernel.cache_clear()
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "liger_kernel":
            del sys.modules[name]
    _load_kernel.cache_clear()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An installed liger_kernel that runs on a CPU; return its module."""
    folder = tmp_path / "liger_kernel" / "ops"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder.parent / "__init__.py").touch()
    (folder / "fused_linear_cross_entropy.py").write_text(KERNEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    import_name = "liger_kernel.ops.fused_linear_cross_entropy"
    return __import__(import_name, fromlist=["calls"])


def inputs(rows: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    targets = torch.randint(9, (rows,))
    targets[1] = -100
    hidden, weight = torch.randn(rows, 4), torch.randn(9, 4)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_call_means_the_sum_of_ours(kernel: Any, is_weighted: bool) -> None:
    hidden, weight, targets = inputs()
    factors = torch.rand(6) if is_weighted else None
    found = fused_linear_cross_entropy(hidden, weight, targets, target_weights=factors)
    expected = linear_cross_entropy(hidden, weight, targets, target_weights=factors)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(
        torch.autograd.grad(found, (hidden, weight)),
        torch.autograd.grad(expected, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
    (call,) = kernel.calls
    assert call["accum_dtype"] is torch.float32
    assert call["reduction"] == ("none" if is_weighted else "sum")


def test_blocks_of_logits_are_as_large_as_ours(
    kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In multiples of the hidden vectors: 96 MiB / (6 x 4 x 4 bytes), and at least one."""
    fused_linear_cross_entropy(*inputs())
    monkeypatch.setattr("biomamba.model.loss.BLOCK_BYTES", 95)
    fused_linear_cross_entropy(*inputs())
    assert [call["chunk_mem_const"] for call in kernel.calls] == [1 << 20, 1]


def test_under_autocast_the_weight_stays_wide_and_products_are_narrow(kernel: Any) -> None:
    hidden, weight, targets = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        fused_linear_cross_entropy(hidden, weight, targets).backward()
    (call,) = kernel.calls
    assert (call["_input"].dtype, call["weight"].dtype) == (torch.bfloat16, torch.float32)
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_the_weight_alone_gets_its_gradient(kernel: Any) -> None:
    """The kernel makes none unless the hidden vectors want one."""
    hidden, weight, targets = inputs()
    fused_linear_cross_entropy(hidden.detach(), weight, targets)
    fused_linear_cross_entropy(hidden.detach(), weight.detach(), targets)
    assert [call["_input"].requires_grad for call in kernel.calls] == [True, False]


def test_wrong_arguments_are_refused_as_by_ours(kernel: Any) -> None:
    hidden, weight, targets = inputs()
    with pytest.raises(DataError, match=r"targets\[0\] is 9, but the model has the ids 0 to 8"):
        fused_linear_cross_entropy(hidden, weight, targets.fill_(9))
    with pytest.raises(ValueError, match="must have one entry per row of hidden"):
        fused_linear_cross_entropy(hidden, weight, targets[:2])
    with pytest.raises(ValueError, match=r"target_weights .* one entry per target"):
        fused_linear_cross_entropy(hidden, weight, targets, target_weights=torch.ones(2))
    assert kernel.calls == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_are_refused(kernel: Any, dtype: torch.dtype) -> None:
    hidden, weight, targets = inputs()
    with pytest.raises(ConfigError, match=rf"float32 or bfloat16, not {dtype}: set objective.loss"):
        fused_linear_cross_entropy(hidden.to(dtype), weight.to(dtype), targets)


def test_a_machine_without_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss_kernel=liger runs on NVIDIA GPUs, .* on cpu: set"):
        check_loss_kernel("liger", CPU, is_sharded=False)
    with pytest.raises(ConfigError, match="runs on NVIDIA GPUs"):
        fused_linear_cross_entropy(*inputs())
    check_loss_kernel("chunked", CPU, is_sharded=True)


def test_sharded_weights_are_refused(kernel: Any) -> None:
    with pytest.raises(ConfigError, match=r"takes whole weights, .* objective.loss_kernel=chunked"):
        check_loss_kernel("liger", GPU, is_sharded=True)


def test_a_missing_package_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    message = r"objective.loss_kernel=liger needs the module liger_kernel.*\.\[liger\].*chunked"
    with pytest.raises(MissingDependencyError, match=message):
        check_loss_kernel("liger", GPU, is_sharded=False)


def test_each_name_has_its_loss() -> None:
    assert loss_of("chunked") is linear_cross_entropy
    assert loss_of("liger") is fused_linear_cross_entropy


@pytest.mark.gpu
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("is_half", [False, True])
def test_the_kernel_on_a_gpu_agrees_with_ours(is_half: bool, is_weighted: bool) -> None:
    pytest.importorskip("liger_kernel")
    torch.manual_seed(0)
    hidden, weight = torch.randn(700, 64).cuda(), torch.randn(1_000, 64).cuda()
    targets = torch.randint(1_000, (700,)).cuda()
    targets[::7] = -100
    factors = torch.rand(700).cuda() if is_weighted else None
    found = []
    for loss in (fused_linear_cross_entropy, linear_cross_entropy):
        leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        with torch.autocast("cuda", torch.bfloat16, enabled=is_half):
            total = loss(leaves[0], leaves[1], targets, target_weights=factors)
        found.append([total, *torch.autograd.grad(total * 0.01, leaves)])
    # float32 products may run as TF32 (2^-11); bf16 rounds logits, their gradients and results.
    unit = 2**-8 if is_half else 2**-11
    for mine, ours in zip(*found, strict=True):
        assert mine.dtype == ours.dtype
        assert (mine - ours).abs().max() <= 6 * unit * ours.abs().max()
