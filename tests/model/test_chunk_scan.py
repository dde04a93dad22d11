import pytest
import torch
from torch import Tensor

from biomamba.model.backends import chunked as chunk_scan
from biomamba.model.backends.chunked import Decays, scan_chunks

BATCH, CHUNKS, Q, HEADS, HEADDIM, GROUPS, STATE = 2, 3, 4, 4, 3, 2, 5


def leaves() -> tuple[Tensor, ...]:
    """Random x, B, C, the five decays and the first state, float64."""
    k = BATCH * CHUNKS

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64)

    maps = draw(k, Q, HEADS, HEADDIM), draw(k, Q, GROUPS, STATE), draw(k, Q, GROUPS, STATE)
    decays = (
        draw(k, Q, HEADS),
        -draw(k, HEADS, Q).abs().cumsum(-1),
        draw(k, Q, HEADS),
        draw(k, Q, HEADS),
        draw(BATCH, CHUNKS, HEADS),
    )
    state = draw(BATCH, HEADS, HEADDIM, STATE)
    return tuple(tensor.requires_grad_() for tensor in (*maps, *decays, state))


def run(*tensors: Tensor, documents: Tensor | None = None) -> tuple[Tensor, Tensor]:
    x, B, C, *decays, state = tensors
    return scan_chunks((x, B, C), Decays(*decays), state, documents)


@pytest.mark.parametrize("per_tile", [1, 2, 4, 6])
@pytest.mark.parametrize("cut", [False, True])
def test_gradients_match_finite_differences_in_any_tiling(
    per_tile: int, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_scan, "_TILE_ELEMENTS", per_tile * HEADS * Q * Q)
    documents = torch.randint(2, (BATCH * CHUNKS, Q)).cumsum(1) if cut else None

    def scan(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return run(*tensors, documents=documents)

    assert torch.autograd.gradcheck(scan, leaves(), fast_mode=True)


def test_tiling_does_not_change_results(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = leaves()
    expected = run(*tensors)
    monkeypatch.setattr(chunk_scan, "_TILE_ELEMENTS", 1)

    torch.testing.assert_close(run(*tensors), expected)


def test_no_chunk_matrix_is_kept_for_the_backward() -> None:
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(*leaves())

    assert max(sizes) == BATCH * CHUNKS * HEADS * HEADDIM * STATE  # the entering states
