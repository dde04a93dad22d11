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


@pytest.mark.parametrize("step", [1e3, 1e6, 1e30])
def test_sums_after_a_huge_step_keep_their_digits(step: float) -> None:
    x, dt, A, B, C = scan_inputs(32)
    dt[:, 5] = step
    expected = ReferenceScan().scan(x, dt, A, B, C)[0]
    found = ChunkedScan(16).scan(*(t.float() for t in (x, dt, A, B, C)))[0]

    # float32 sums of up to 16 exponents of at most 128 each: 2048 * 2**-24 = 1.2e-4, with a margin.
    torch.testing.assert_close(found[:, 6:].double(), expected[:, 6:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("step", [1.0, 1e3, 6e4, 1e6])
def test_fp16_stays_finite_and_right_with_large_steps(step: float) -> None:
    x, dt, A, B, C = scan_inputs(40)
    dt[:, :, 1] *= step
    expected, state = ReferenceScan().scan(x, dt, A, B, C)
    leaves = [t.half().requires_grad_() for t in (x, B, C)]
    y, final = ChunkedScan(16).scan(leaves[0], dt.float(), A.float(), *leaves[1:])

    # Rounding of inputs and products to 2**-11 in sums of about ten terms.
    limit = torch.finfo(torch.float16).max
    torch.testing.assert_close(
        y.double(), expected.clamp(-limit, limit), rtol=0.02, atol=0.02 * max(1.0, step)
    )
    torch.testing.assert_close(final.double(), state, rtol=0.02, atol=0.02 * max(1.0, step))
    # The head with usual steps does not suffer from the other.
    torch.testing.assert_close(
        y[:, :, 0].double(), expected[:, :, 0], rtol=0.02, atol=0.02, check_dtype=False
    )
    for grad in torch.autograd.grad(y.float().mean() + final.mean() / step, leaves):
        assert torch.isfinite(grad).all()


def test_bf16_states_are_summed_in_float32() -> None:
    # 2,048 additions of 1 with hardly any decay; bf16 has 8 bits and would stop at 256.
    ones = torch.ones(1, 2_048, 1, 1, dtype=torch.bfloat16)
    dt, A = torch.ones(1, 2_048, 1), torch.tensor([-1e-9])
    _, final = ChunkedScan(64).scan(ones, dt, A, ones, ones)

    assert final.item() == pytest.approx(2_048, rel=1e-4)


def test_a_scan_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="length 0: a scan needs at least one position"):
        ChunkedScan(8).scan(*scan_inputs(0))


def test_chunk_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"chunk_size must be .*, found 0"):
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
