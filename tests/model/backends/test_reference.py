import math

import torch

from biomamba.model.backends.reference import ReferenceScan


def scan_ones(length: int, **options: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One head, all sizes 1, inputs 1, dt 1, decay 1/2 per step."""
    ones = torch.ones(1, length, 1, 1, dtype=torch.float64)
    A = torch.tensor([-math.log(2.0)], dtype=torch.float64)
    return ReferenceScan().scan(ones, ones[..., 0], A, ones, ones, **options)


def test_recurrence_by_hand() -> None:
    y, final = scan_ones(3)
    assert torch.allclose(y.flatten(), torch.tensor([1.0, 1.5, 1.75], dtype=torch.float64))
    assert math.isclose(final.item(), 1.75)


def test_initial_state_decays_and_ends_with_its_document() -> None:
    seq_idx = torch.tensor([[0, 0, 1, 1]])
    y, final = scan_ones(4, seq_idx=seq_idx, initial_state=torch.full((1, 1, 1, 1), 8.0).double())
    assert torch.allclose(y.flatten(), torch.tensor([5.0, 3.5, 1.0, 1.5], dtype=torch.float64))
    assert math.isclose(final.item(), 1.5)


def test_autocast_does_not_change_the_recurrence() -> None:
    generator = torch.Generator().manual_seed(0)
    x, B = (torch.randn(1, 9, 1, 4, generator=generator) for _ in range(2))
    dt, A = torch.rand(1, 9, 1, generator=generator), torch.tensor([-1.0])
    expected = ReferenceScan().scan(x, dt, A, B, B)
    with torch.autocast("cpu", torch.bfloat16):
        actual = ReferenceScan().scan(x, dt, A, B, B)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
