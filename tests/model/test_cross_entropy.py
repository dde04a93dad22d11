import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.model import cross_entropy
from biomamba.model.cross_entropy import linear_cross_entropy, token_nll

VOCAB, WIDTH = 11, 6


def case(rows: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(VOCAB, (rows,), generator=generator)
    targets[::3] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.t(), targets, reduction="sum")


@pytest.mark.parametrize("chunk_rows", [1, 4, 512])
@pytest.mark.parametrize("rows", [1, 2, 7, 13])
def test_value_and_gradients_equal_full_logits(rows: int, chunk_rows: int) -> None:
    hidden, weight, targets = case(rows)
    expected = plain(hidden, weight, targets)
    actual = linear_cross_entropy(hidden, weight, targets, chunk_rows=chunk_rows)

    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(3 * actual, (hidden, weight)),
        torch.autograd.grad(3 * expected, (hidden, weight)),
    )


def test_uniform_logits_cost_the_log_of_the_vocabulary() -> None:
    hidden, weight, _ = case(5)
    total = linear_cross_entropy(hidden, torch.zeros_like(weight), torch.arange(5))

    assert math.isclose(total.item(), 5 * math.log(VOCAB))


@pytest.mark.parametrize("rows", [0, 4])
def test_all_ignored_is_zero_with_zero_gradients(rows: int) -> None:
    hidden, weight, _ = case(rows)
    total = linear_cross_entropy(hidden, weight, torch.full((rows,), -100))
    total.backward()

    assert total.item() == 0.0
    assert hidden.grad is not None
    assert not hidden.grad.any()
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("needs_grad", ["hidden", "weight"])
def test_one_gradient_alone(needs_grad: str) -> None:
    hidden, weight, targets = case(7)
    needed = hidden if needs_grad == "hidden" else weight
    other = weight if needs_grad == "hidden" else hidden
    expected = torch.autograd.grad(plain(hidden, weight, targets), needed)
    other.requires_grad_(False)
    linear_cross_entropy(hidden, weight, targets).backward()

    assert needed.grad is not None
    torch.testing.assert_close(needed.grad, expected[0])
    assert other.grad is None


def test_no_gradient_is_made_when_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = case(7)
    monkeypatch.delattr(cross_entropy, "_grad_logits")
    with torch.no_grad():
        total = linear_cross_entropy(hidden, weight, targets)

    assert not total.requires_grad
    torch.testing.assert_close(total, plain(hidden, weight, targets).detach())


def test_ignored_rows_are_not_computed() -> None:
    hidden, weight, targets = case(6)
    with torch.no_grad():
        hidden[::3] = torch.nan
    total = linear_cross_entropy(hidden, weight, targets)
    total.backward()

    assert total.isfinite()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)]
)  # a few units in the last place of the logits
def test_autocast_is_near_float32(dtype: torch.dtype, tolerance: float) -> None:
    hidden, weight, targets = case(50, torch.float32)
    expected = plain(hidden, weight, targets)
    with torch.autocast("cpu", dtype):
        actual = linear_cross_entropy(hidden, weight, targets, chunk_rows=16)
    assert actual.dtype == torch.float32
    assert abs(actual - expected) <= tolerance * expected

    wanted = torch.autograd.grad(expected, (hidden, weight))
    for a, e in zip(torch.autograd.grad(actual, (hidden, weight)), wanted, strict=True):
        assert a.dtype == torch.float32
        assert (a - e).abs().max() <= tolerance * e.abs().max()


def test_fp16_keeps_gradients_below_its_normal_range() -> None:
    weight = torch.eye(2, 2).mul(20.0).requires_grad_()  # softmax e^-20 is 2e-9
    hidden = torch.tensor([[0.7, 0.0]], requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        linear_cross_entropy(hidden, weight, torch.tensor([0])).backward()

    probability = 1 / (1 + math.exp(20 * 0.7))  # 8e-7, 14 steps of fp16's smallest number
    assert weight.grad is not None
    # Scaled by 8 the rounding is at most half of 6e-8 / 8.
    assert abs(weight.grad[1, 0].item() - 0.7 * probability) < 1e-8


def test_token_nll_scores_each_row() -> None:
    hidden, weight, targets = case(13)
    expected = F.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    actual = token_nll(hidden, weight, targets, chunk_rows=4)

    torch.testing.assert_close(actual, expected.detach())
    assert not actual.requires_grad
    assert not actual[::3].any()


@pytest.mark.parametrize("function", [linear_cross_entropy, token_nll])
def test_result_is_float32_for_half_inputs(function: object) -> None:
    hidden, weight, targets = case(4, torch.bfloat16)

    assert callable(function)
    assert function(hidden, weight, targets).dtype == torch.float32


def test_wrong_shapes_are_refused() -> None:
    hidden, weight, targets = case(4)
    with pytest.raises(ValueError, match=r"hidden \(4, 6\) and weight \(6, 11\)"):
        linear_cross_entropy(hidden, weight.t(), targets)
    with pytest.raises(ValueError, match=r"targets \(3,\): must have one entry per row .* 4"):
        token_nll(hidden, weight, targets[:3])
    with pytest.raises(ValueError, match="chunk_rows=0: must be at least 1"):
        token_nll(hidden, weight, targets, chunk_rows=0)
