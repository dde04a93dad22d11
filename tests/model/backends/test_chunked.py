import pytest
import torch

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.backends.reference import ReferenceScan


def scan_inputs(length: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, length, 2, 3, generator=generator, dtype=torch.float64)
    dt = torch.rand(2, length, 2, generator=generator, dtype=torch.float64)
    A = torch.tensor([-0.5, -2.0], dtype=torch.float64)
    B, C = (
        torch.randn(2, length, 1, 4, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return [x, dt, A, B, C]


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 8, 16, 40, 64])
def test_chunk_size_does_not_change_results(chunk_size: int) -> None:
    seq_idx = torch.tensor([[0] * 8 + [1] * 8 + [2] * 24, [0] * 3 + [1] * 1 + [2] * 36])
    expected = ChunkedScan(40).scan(*scan_inputs(40), seq_idx=seq_idx)
    actual = ChunkedScan(chunk_size).scan(*scan_inputs(40), seq_idx=seq_idx)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("seq_idx", [None, torch.arange(21).div(6, rounding_mode="floor")])
def test_gradients_match_finite_differences(seq_idx: torch.Tensor | None) -> None:
    inputs = [t.requires_grad_() for t in scan_inputs(21)]
    state = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    seq_idx = None if seq_idx is None else seq_idx.expand(2, -1)

    def scan(*args: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return ChunkedScan(8).scan(*args[:-1], seq_idx=seq_idx, initial_state=args[-1])

    assert torch.autograd.gradcheck(scan, (*inputs, state), fast_mode=True)


def test_huge_values_of_another_document_do_not_leak() -> None:
    x, *rest = scan_inputs(16)
    seq_idx = torch.tensor([[0] * 8 + [1] * 8]).expand(2, -1)
    expected = ChunkedScan(8).scan(x, *rest, seq_idx=seq_idx)[0][:, 8:]
    x = x.clone()
    x[:, :8] *= 1e30
    torch.testing.assert_close(ChunkedScan(8).scan(x, *rest, seq_idx=seq_idx)[0][:, 8:], expected)


def test_chunk_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="chunk_size=0: must be at least 1"):
        ChunkedScan(0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_numbers_of_the_cpu() -> None:
    inputs = [t.requires_grad_() for t in scan_inputs(130)]
    on_gpu = [t.detach().cuda().requires_grad_() for t in inputs]
    seq_idx = (torch.arange(130) >= 64).int().expand(2, -1)
    expected = ReferenceScan().scan(*inputs, seq_idx=seq_idx)
    actual = ChunkedScan(32).scan(*on_gpu, seq_idx=seq_idx.cuda())
    for found, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(found.cpu(), wanted)
    (expected[0].sum() + expected[1].sum()).backward()
    (actual[0].sum() + actual[1].sum()).backward()
    for found, wanted in zip(on_gpu, inputs, strict=True):
        assert found.grad is not None
        torch.testing.assert_close(found.grad.cpu(), wanted.grad)
