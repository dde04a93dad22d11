import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from biomamba.model import loss as cross_entropy
from biomamba.model.loss import check_ids, linear_cross_entropy, token_nll
from biomamba.runtime.errors import DataError

VOCAB, WIDTH = 11, 6
LOSSES = [linear_cross_entropy, token_nll]


def case(rows: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(VOCAB, (rows,), generator=generator)
    targets[::3] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.t(), targets, reduction="sum")


@pytest.mark.parametrize("piece_bytes", [8, 8 * VOCAB * 3, 4 << 20])  # 1, 3 and all rows
@pytest.mark.parametrize("block_rows", [1, 4, None])
@pytest.mark.parametrize("rows", [1, 2, 7, 13])
@pytest.mark.parametrize("ignores", [True, False])
def test_value_and_gradients_equal_full_logits(
    rows: int,
    block_rows: int | None,
    piece_bytes: int,
    ignores: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(cross_entropy._PIECE_BYTES, "cpu", piece_bytes)
    hidden, weight, targets = case(rows)
    if not ignores:
        targets = targets.clamp(min=0)
    expected = plain(hidden, weight, targets)
    actual = linear_cross_entropy(hidden, weight, targets, block_rows=block_rows)

    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(3 * actual, (hidden, weight)),
        torch.autograd.grad(3 * expected, (hidden, weight)),
    )


@pytest.mark.parametrize("piece_bytes", [8 * VOCAB * 3, 4 << 20])  # 3 and all rows
@pytest.mark.parametrize("block_rows", [1, 4, None])
@pytest.mark.parametrize("ignores", [True, False])
def test_weighted_targets_equal_a_weighted_sum(
    block_rows: int | None, piece_bytes: int, ignores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cross_entropy._PIECE_BYTES, "cpu", piece_bytes)
    hidden, weight, targets = case(13)
    if not ignores:
        targets = targets.clamp(min=0)
    factors = torch.linspace(0, 3, 13, dtype=torch.float64)  # one target counts for nothing
    each = F.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    expected = (each * factors).sum()
    actual = linear_cross_entropy(
        hidden, weight, targets, target_weights=factors, block_rows=block_rows
    )

    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(3 * actual, (hidden, weight)),
        torch.autograd.grad(3 * expected, (hidden, weight)),
    )


def test_weights_of_one_change_no_bit() -> None:
    hidden, weight, targets = case(13, torch.float32)
    results = []
    for factors in (None, torch.ones(13)):
        total = linear_cross_entropy(hidden, weight, targets, target_weights=factors)
        results.append((total, *torch.autograd.grad(total, (hidden, weight))))

    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_weights_of_another_number_are_refused() -> None:
    hidden, weight, targets = case(7)

    with pytest.raises(
        ValueError, match=r"target_weights \(6,\): must have one entry per target, 7"
    ):
        linear_cross_entropy(hidden, weight, targets, target_weights=torch.ones(6))


@pytest.mark.parametrize("largest", [1.0, 1e3, 1e30])
def test_large_logits_neither_overflow_nor_vanish(largest: float) -> None:
    hidden = torch.tensor([[largest]], dtype=torch.float64)
    weight = torch.tensor([[1.0], [0.0], [-1.0]], dtype=torch.float64)
    for target, entry in enumerate(weight.flatten().tolist()):
        expected = largest * (1 - entry) + math.log(1 + math.exp(-largest) + math.exp(-2 * largest))
        assert token_nll(hidden, weight, torch.tensor([target])).item() == pytest.approx(expected)


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


def test_gradients_add_up_over_losses() -> None:
    hidden, weight, targets = case(13)
    expected = torch.autograd.grad(plain(hidden, weight, targets), weight)
    for rows in (slice(0, 5), slice(5, 13)):
        linear_cross_entropy(hidden[rows], weight, targets[rows]).backward()

    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, expected[0])


def test_gradients_are_handed_out_once() -> None:
    hidden, weight, targets = case(7)
    total = linear_cross_entropy(hidden, weight, targets)
    total.backward(torch.tensor(2.0, dtype=torch.float64), retain_graph=True)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_no_gradient_is_made_when_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = case(7)
    monkeypatch.delattr(cross_entropy, "_add_product")
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("block_rows", [None, 16])
@pytest.mark.parametrize("piece_bytes", [4 * VOCAB * 3, 4 << 20])  # 3 and all rows
def test_autocast_differs_by_the_rounding_of_its_products(
    dtype: torch.dtype, block_rows: int | None, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a unit in the last place (u) for each rounding, against float32 on the rounded inputs.

    A logit is rounded once: |change| <= u |logit|, and the nll changes by at most twice the
    largest of these. An entry e of softmax - one-hot changes by at most p_i times that, is rounded,
    multiplied with an exact number, and the product of each block is rounded.
    """
    monkeypatch.setitem(cross_entropy._PIECE_BYTES, "cpu", piece_bytes)
    unit = torch.finfo(dtype).eps / 2
    hidden, weight, targets = case(50, torch.float32)
    rounded = [t.detach().to(dtype).float().requires_grad_() for t in (hidden, weight)]
    logits = (rounded[0] @ rounded[1].t()).detach()
    scored = targets >= 0
    change = 2 * unit * logits.abs().amax(1)[scored]
    expected = plain(rounded[0], rounded[1], targets)
    with torch.autocast("cpu", dtype):
        actual = linear_cross_entropy(hidden, weight, targets, block_rows=block_rows)
    assert actual.dtype == torch.float32
    float32 = 1e-6 * expected.item()
    assert abs(actual.item() - expected.item()) <= change.sum() + float32

    entries = torch.softmax(logits[scored], 1)
    slope = change[:, None] * entries  # bound of the change of softmax
    entries = (entries - F.one_hot(targets[scored], VOCAB)).abs()
    wrong = slope * 1.01 + unit * entries
    inputs = rounded[0].detach()[scored].abs(), rounded[1].detach().abs()
    wanted = torch.autograd.grad(expected, rounded)
    found = torch.autograd.grad(actual, (hidden, weight))
    sizes = entries @ inputs[1], entries.t() @ inputs[0]
    bounds = wrong @ inputs[1] + unit * sizes[0], wrong.t() @ inputs[0] + unit * sizes[1]
    assert found[0].dtype == found[1].dtype == torch.float32
    assert ((found[0] - wanted[0]).abs()[scored] <= 1.1 * bounds[0]).all()
    assert ((found[1] - wanted[1]).abs() <= 1.1 * bounds[1]).all()


def test_sums_over_blocks_do_not_lose_small_parts() -> None:
    """4,000 equal parts: in bfloat16 the sum would stand still after 256 of them."""
    hidden, weight = torch.ones(4000, 1), torch.zeros(2, 1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        linear_cross_entropy(
            hidden, weight, torch.zeros(4000, dtype=torch.long), block_rows=1
        ).backward()

    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [-2000.0, 2000.0]


def test_fp16_keeps_gradients_below_its_normal_range() -> None:
    weight = torch.eye(2, 2).mul(20.0).requires_grad_()  # softmax e^-20 is 2e-9
    hidden = torch.tensor([[0.7, 0.0]], requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        linear_cross_entropy(hidden, weight, torch.tensor([0])).backward()

    probability = 1 / (1 + math.exp(20 * 0.7))  # 8e-7, 14 steps of fp16's smallest number
    assert weight.grad is not None
    # Scaled by 8 the rounding is at most half of 6e-8 / 8.
    assert abs(weight.grad[1, 0].item() - 0.7 * probability) < 1e-8


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations have made and that still are there."""

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.peak = 0
        self._given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self._alive = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self._given:
                    self._alive[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self._alive.values()))
        return result


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("rows", [500, 2000])
def test_memory_is_that_of_gradients_and_one_block(
    loss: Callable[..., Tensor],
    dtype: torch.dtype | None,
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sizes are such that a copy of a block or of the weight gradient would be seen."""
    vocab, width, block_rows, piece_rows = 2000, 64, 40, 4
    monkeypatch.setitem(cross_entropy._PIECE_BYTES, "cpu", piece_rows * vocab * 4)
    monkeypatch.setattr(cross_entropy, "_VOCAB_PIECE", 100)
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(vocab, width, requires_grad=True)
    targets = torch.randint(vocab, (rows,))
    targets[::10] = -100
    block = block_rows * vocab * (2 if dtype else 4)
    narrow = vocab * width * 2 if dtype else 0
    gradients = (rows + vocab) * width * 4 if loss is linear_cross_entropy else 0
    # Hidden vectors of a block and their gradients, some numbers per row, a piece of the softmax.
    small = 4 * block_rows * width * 4 + 30 * rows + (piece_rows * vocab * 4 if dtype else 0)
    with (
        LiveBytes(hidden, weight, targets) as live,
        torch.autocast("cpu", dtype, enabled=dtype is not None),
    ):
        total = loss(hidden, weight, targets, block_rows=block_rows)
        if total.requires_grad:
            total.backward()

    assert block < live.peak <= block + narrow + gradients + small


@pytest.mark.parametrize(
    ("vocab", "width", "itemsize", "rows"),
    [
        (50_288, 768, 4, 448),  # 96 MiB / (4 x 50,288) = 500
        (50_288, 2560, 2, 960),  # 96 MiB / (2 x 50,288) = 1,000
        (256_000, 512, 4, 64),  # 98
        (10_000_000, 8, 4, 64),  # 2: a block has at least 64 rows
        (256, 1024, 4, 24_576),  # hidden vectors count too
    ],
)
def test_rows_of_a_block_fit_its_memory(vocab: int, width: int, itemsize: int, rows: int) -> None:
    weight = torch.empty(vocab, width, dtype={2: torch.bfloat16, 4: torch.float32}[itemsize])

    assert cross_entropy._fitting_rows(weight) == rows


def test_token_nll_scores_each_row() -> None:
    hidden, weight, targets = case(13)
    expected = F.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    actual = token_nll(hidden, weight, targets, block_rows=4)

    torch.testing.assert_close(actual, expected.detach())
    assert not actual.requires_grad
    assert not actual[::3].any()


@pytest.mark.parametrize("function", LOSSES)
def test_result_is_float32_for_half_inputs(function: Callable[..., Tensor]) -> None:
    hidden, weight, targets = case(4, torch.bfloat16)

    assert function(hidden, weight, targets).dtype == torch.float32


def test_wrong_shapes_are_refused() -> None:
    hidden, weight, targets = case(4)
    with pytest.raises(ValueError, match=r"hidden \(4, 6\) and weight \(6, 11\)"):
        linear_cross_entropy(hidden, weight.t(), targets)
    with pytest.raises(ValueError, match=r"targets \(3,\): must have one entry per row .* 4"):
        token_nll(hidden, weight, targets[:3])
    with pytest.raises(ValueError, match=r"block_rows must be .*, found 0"):
        token_nll(hidden, weight, targets, block_rows=0)


@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("wrong", [VOCAB, -1, -99, 2**40])
def test_targets_outside_the_vocabulary_are_refused(
    function: Callable[..., Tensor], wrong: int
) -> None:
    hidden, weight, targets = case(5)
    targets[3] = wrong
    message = rf"targets\[3\] is {wrong}, but the model has the ids 0 to 10, or -100 .* 1 of 5"
    with pytest.raises(DataError, match=message):
        function(hidden, weight, targets)


def test_ids_outside_the_vocabulary_are_named_by_place() -> None:
    ids = torch.tensor([[0, 10], [-100, 11]])
    with pytest.raises(DataError, match=r"input_ids\[1, 0\] is -100, .* 0 to 10; 2 of 4"):
        check_ids(ids, VOCAB, "input_ids")
    check_ids(ids[:1], VOCAB, "input_ids")
    check_ids(ids[:0], VOCAB, "input_ids")
