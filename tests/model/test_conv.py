import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.model import conv as conv_module
from biomamba.model.conv import CausalConv1d

CHANNELS, TAPS = 3, 4


@pytest.fixture
def conv() -> CausalConv1d:
    return CausalConv1d(CHANNELS, TAPS).double()


def inputs(length: int) -> Tensor:
    return torch.randn(2, length, CHANNELS, dtype=torch.float64)


def grouped_conv(conv: CausalConv1d, x: Tensor) -> Tensor:
    padded = F.pad(x.transpose(1, 2), (TAPS - 1, 0))
    return F.silu(F.conv1d(padded, conv.weight, conv.bias, groups=CHANNELS)).transpose(1, 2)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
def test_conv_equals_grouped_conv1d_with_gradients(conv: CausalConv1d, length: int) -> None:
    x = inputs(length).requires_grad_()
    expected, actual = grouped_conv(conv, x), conv(x)[0]
    factor = torch.randn_like(expected.contiguous())

    torch.testing.assert_close(actual, expected)
    parameters = (x, conv.weight, conv.bias)
    torch.testing.assert_close(
        torch.autograd.grad((actual * factor).sum(), parameters),
        torch.autograd.grad((expected * factor).sum(), parameters),
    )


@pytest.mark.parametrize("lengths", [(5, 4), (1, 1, 1, 6), (2, 3, 1, 2)])
def test_documents_are_convolved_as_if_alone(conv: CausalConv1d, lengths: tuple[int, ...]) -> None:
    x = inputs(sum(lengths)).requires_grad_()
    numbers = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).expand(2, -1)
    actual, state = conv(x, numbers)
    alone = [conv(part) for part in x.split(list(lengths), dim=1)]
    expected = torch.cat([y for y, _ in alone], dim=1)
    factor = torch.randn_like(expected)

    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(state, alone[-1][1])
    parameters = (x, conv.weight, conv.bias)
    torch.testing.assert_close(
        torch.autograd.grad((actual * factor).sum(), parameters),
        torch.autograd.grad((expected * factor).sum(), parameters),
    )


@pytest.mark.parametrize("starts", [(), (63,), (64,), (65,), (66, 67), (127, 128)])
def test_tiles_do_not_change_results(
    conv: CausalConv1d, starts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = inputs(130).requires_grad_()
    state = torch.randn(2, CHANNELS, TAPS, dtype=torch.float64, requires_grad=True)
    numbers = torch.zeros(2, 130, dtype=torch.int32)
    numbers[:, list(starts)] = 1
    factor = torch.randn(2, 130, CHANNELS, dtype=torch.float64)
    leaves = (x, state, conv.weight, conv.bias)
    results = []
    for elements in (10**9, 1):  # one tile; tiles of 64 positions
        monkeypatch.setattr(conv_module, "_TILE_ELEMENTS", elements)
        y, _ = conv(x, numbers.cumsum(1), state)
        results.append((y, *torch.autograd.grad((y * factor).sum(), leaves)))

    torch.testing.assert_close(results[1], results[0])


def test_gradients_match_finite_differences(conv: CausalConv1d) -> None:
    numbers = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 1]])
    x = inputs(6).requires_grad_()
    state = torch.randn(2, CHANNELS, TAPS, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, state: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return conv(x, numbers, state)

    assert torch.autograd.gradcheck(run, (x, state, conv.weight, conv.bias))


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 8])
def test_two_segments_equal_one_pass(conv: CausalConv1d, cut: int) -> None:
    x = inputs(9)
    whole, final = conv(x)
    first, state = conv(x[:, :cut])
    second, last = conv(x[:, cut:], None, state)

    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(last, final)


def test_state_belongs_to_the_first_document_only(conv: CausalConv1d) -> None:
    x, state = inputs(2), torch.randn(2, CHANNELS, TAPS, dtype=torch.float64)
    actual, _ = conv(x, torch.tensor([[0, 1], [0, 1]]), state)

    torch.testing.assert_close(actual[:, 1:], conv(x[:, 1:])[0])


def test_step_equals_forward(conv: CausalConv1d) -> None:
    x = inputs(6)
    expected, final = conv(x)
    state = torch.zeros(2, CHANNELS, TAPS, dtype=torch.float64)
    for position in range(6):
        y, state = conv.step(x[:, position], state)
        torch.testing.assert_close(y, expected[:, position])

    torch.testing.assert_close(state, final)


def test_initialisation_is_that_of_conv1d() -> None:
    conv = CausalConv1d(1_000, TAPS)

    assert 0.49 < conv.weight.abs().max() <= 0.5  # 1 / sqrt(d_conv)
    assert 0.49 < conv.bias.abs().max() <= 0.5
