"""The real Triton kernel of liger-kernel, in Triton's interpreter, against our chunked loss.

Needs no GPU, but an environment of its own: `make test-interpreter`.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from biomamba.model.loss import fused_linear_cross_entropy, linear_cross_entropy

pytest.importorskip("interpreted_kernels", reason="make test-interpreter").interpret()
pytest.importorskip("liger_kernel", reason="make test-interpreter")

ROWS, WIDTH, VOCAB = 24, 16, 80
SCALE = 0.37  # of the loss in its backward pass, as a step of training scales its micro-batches
Loss = Callable[..., Tensor]


def results(loss: Loss, tensors: list[Tensor], factors: Tensor | None) -> list[Tensor]:
    """Return the loss and the gradients of hidden and weight."""
    hidden, weight = (tensor.clone().requires_grad_() for tensor in tensors[:2])
    total = loss(hidden, weight, tensors[2], target_weights=factors)
    return [total, *torch.autograd.grad(total * SCALE, [hidden, weight])]


def draw(rows: int = ROWS, vocab: int = VOCAB, spread: float = 1.0) -> list[Tensor]:
    torch.manual_seed(0)
    targets = torch.randint(vocab, (rows,))
    return [torch.randn(rows, WIDTH), spread * torch.randn(vocab, WIDTH), targets]


def assert_same(tensors: list[Tensor], factors: Tensor | None = None, unit: float = 2**-24) -> None:
    """Compare to the rounding of sums: of WIDTH products, VOCAB exponentials and ROWS rows."""
    ours = results(linear_cross_entropy, tensors, factors)
    theirs = results(fused_linear_cross_entropy, tensors, factors)
    for name, mine, other in zip(["loss", "hidden", "weight"], ours, theirs, strict=True):
        assert mine.dtype == other.dtype, name
        error = (mine - other).abs().max()
        assert error <= (WIDTH + VOCAB + ROWS) * unit * mine.abs().max(), f"{name}: {error:.2g}"


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("rows", [1, 24, 37])  # of one block, and not a power of two
def test_loss_and_gradients_are_ours(rows: int, is_weighted: bool) -> None:
    tensors = draw(rows)
    tensors[2][::5] = -100 if rows > 1 else 3
    assert_same(tensors, torch.rand(rows) if is_weighted else None)


def test_many_blocks_are_one_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of once the size of hidden: 24 rows pass in blocks of 8 (80 / 16 = 5, 24 / 5 = 5)."""
    monkeypatch.setattr("biomamba.model.loss.BLOCK_BYTES", 1)
    tensors = draw()
    tensors[2][:9] = -100  # a whole block, and one row of the next
    assert_same(tensors)
    assert_same(tensors, torch.rand(ROWS))


def test_nothing_to_score_is_zero() -> None:
    hidden, weight, targets = draw()
    found = results(fused_linear_cross_entropy, [hidden, weight, targets.fill_(-100)], None)
    assert all(not tensor.any() for tensor in found)


def test_padding_rows_of_the_weight_take_part() -> None:
    """As in ours: 3 ids are never a target, but have their share of the softmax."""
    tensors = draw()
    tensors[2] %= VOCAB - 3
    assert_same(tensors)
    ours = results(fused_linear_cross_entropy, tensors, None)[2]
    assert ours[-3:].abs().min() > 0


def test_sure_and_very_wrong_predictions_stay_finite() -> None:
    """Logits of thousands: the exponentials of all but one column vanish."""
    tensors = draw(spread=1_000.0)
    assert_same(tensors)
    assert all(t.isfinite().all() for t in results(fused_linear_cross_entropy, tensors, None))


@pytest.mark.parametrize("is_weighted", [False, True])
def test_under_autocast_blocks_are_added_in_float32(
    is_weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits and their gradients are rounded to bfloat16 in both, sums of blocks in neither."""
    monkeypatch.setattr("biomamba.model.loss.BLOCK_BYTES", 1)
    tensors, factors = draw(), torch.rand(ROWS) if is_weighted else None
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(tensors, factors, unit=6 * 2**-8 / (WIDTH + VOCAB + ROWS))
        weight = results(fused_linear_cross_entropy, tensors, factors)[2]
    assert weight.dtype == torch.float32
    assert not torch.equal(weight, weight.bfloat16().float())


def test_without_gradients_it_is_the_same_loss() -> None:
    tensors = draw()
    with torch.no_grad():
        found = fused_linear_cross_entropy(*tensors)
        torch.testing.assert_close(found, linear_cross_entropy(*tensors))
    frozen = fused_linear_cross_entropy(tensors[0].requires_grad_(), *tensors[1:])
    (gradient,) = torch.autograd.grad(frozen, tensors[0])
    assert gradient.abs().sum() > 0
