"""Sums of gradients do not depend on their order, and the norm is that of torch."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from biomamba.training import step_guard as gradients
from biomamba.training.step_guard import GradientSums, clip, global_norm

PASSES = 8


def gradients_of(seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    # Of very different sizes: float32 sums of them depend on the order.
    return [torch.randn(3, 5, generator=rng) * 10.0**-seed, torch.randn(7, generator=rng)]


def make_parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(3, 5)), nn.Parameter(torch.zeros(7))]


def total_of(shares: Sequence[Sequence[int]]) -> list[Tensor]:
    """Deal the passes out to ranks and return the gradients of the first one."""
    ranks = []
    for share in shares:
        parameters = make_parameters()
        sums = GradientSums(parameters)
        for seed in share:
            for parameter, gradient in zip(parameters, gradients_of(seed), strict=True):
                parameter.grad = gradient
            sums.take()
            assert all(parameter.grad is None for parameter in parameters)
        ranks.append((parameters, sums))
    flat = [sums._flat.clone() for _, sums in ranks]
    parameters, sums = ranks[0]
    sums.give(lambda _: torch.stack(flat).sum(0))
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def test_any_order_on_any_ranks_gives_the_same_bits() -> None:
    forth, back = list(range(PASSES)), list(reversed(range(PASSES)))
    wanted = total_of([forth])
    for shares in ([back], [forth[:3], forth[3:]], [back[:1], back[1:2], back[2:]]):
        for found, value in zip(total_of(shares), wanted, strict=True):
            assert found.dtype == torch.float32
            assert torch.equal(found, value)
    plain = [sum(gradients_of(seed)[0] for seed in order) for order in (forth, back)]
    assert not torch.equal(*plain)  # type: ignore[arg-type]


def test_a_step_begins_at_zero() -> None:
    parameters = make_parameters()
    sums = GradientSums(parameters)
    for _ in range(2):
        sums.clear()
        parameters[0].grad = torch.ones(3, 5)
        sums.take()
        sums.give(lambda total: total)
        assert parameters[0].grad is not None
        assert torch.equal(parameters[0].grad, torch.ones(3, 5))
        assert parameters[1].grad is None  # no pass reached it


def test_sums_are_sent_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "_ELEMENTS_AT_ONCE", 4)  # of 22, across the two parameters
    parameters = make_parameters()
    sums = GradientSums(parameters)
    for parameter, gradient in zip(parameters, gradients_of(0), strict=True):
        parameter.grad = gradient
    sums.take()
    sent = []
    sums.give(lambda part: sent.append(part.numel()) or 2 * part)  # type: ignore[func-returns-value]
    assert sent == [4, 4, 4, 4, 4, 2]
    for parameter, gradient in zip(parameters, gradients_of(0), strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, 2 * gradient)


def test_frozen_parameters_take_no_memory() -> None:
    parameters = make_parameters()
    parameters[0].requires_grad_(False)
    assert GradientSums(parameters)._flat.numel() == 7


@pytest.mark.parametrize("max_norm", [0.5, 1_000.0])
def test_norm_and_clipping_are_those_of_torch(max_norm: float) -> None:
    parameters, expected = make_parameters(), make_parameters()
    for own, other, gradient in zip(parameters, expected, gradients_of(0), strict=True):
        own.grad, other.grad = gradient.clone(), gradient.clone()
    own = [p.grad for p in parameters if p.grad is not None]
    norm = global_norm(own, lambda value: value)
    wanted = nn.utils.clip_grad_norm_(expected, max_norm)
    torch.testing.assert_close(norm, wanted)
    clip(own, norm, max_norm)
    for gradient, other in zip(own, expected, strict=True):
        torch.testing.assert_close(gradient, other.grad)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(value: float) -> None:
    gradient = torch.tensor([1.0, value])
    norm = global_norm([gradient], lambda total: total)
    assert not torch.isfinite(norm)
    clip([gradient], norm, 1.0)
    assert gradient.isnan().any()


def test_no_gradients_have_norm_zero() -> None:
    assert global_norm([], lambda total: total) == 0
