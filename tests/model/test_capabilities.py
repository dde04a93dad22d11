"""A mixer takes what its backend can do beyond the scan, and does the rest by itself."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.mamba2 import LayerState, Mamba2Mixer
from biomamba.model.ssd import ConvolvingBackend, MixerParts, MixingBackend

CONFIG = Mamba2Config(d_model=16, n_layer=1, vocab_size=8, d_state=8, headdim=8, ngroups=2)


class AbleScan(ChunkedScan):
    """Counts what it is asked for, and answers like the mixer's own parts or with None."""

    def __init__(self, *, is_able: bool) -> None:
        super().__init__(chunk_size=4)
        self.is_able = is_able
        self.asked: list[str] = []
        self.own = Mamba2Mixer(CONFIG, ChunkedScan(chunk_size=4)).double()

    def convolve(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        documents: Tensor | None,
        past: Tensor | None,
    ) -> Tensor | None:
        self.asked.append("convolve")
        state = None if past is None else F.pad(past.mT, (1, 0))
        return self.own.conv1d(x, documents, state)[0] if self.is_able else None


class WholeScan(AbleScan):
    def mix(
        self, zxBCdt: Tensor, parts: MixerParts, documents: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        self.asked.append("mix")
        if not self.is_able:
            return None
        whole = self.own
        whole.in_proj, whole.out_proj = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        normed, state = whole(zxBCdt, documents)
        return normed, state.ssm


def mixer_with(backend: Any) -> Mamba2Mixer:
    """A mixer whose parameters the backend knows."""
    mixer = Mamba2Mixer(CONFIG, backend).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    if isinstance(backend, AbleScan):
        backend.own.load_state_dict(mixer.state_dict())
    return mixer


def own_result(mixer: Mamba2Mixer, *inputs: Any) -> tuple[Tensor, LayerState]:
    plain = Mamba2Mixer(CONFIG, ChunkedScan(chunk_size=4)).double()
    plain.load_state_dict(mixer.state_dict())
    return plain(*inputs)


@pytest.fixture
def u() -> Tensor:
    return torch.randn(2, 13, 16, dtype=torch.float64)


@pytest.fixture
def documents() -> Tensor:
    return (torch.arange(13) >= 5).int().expand(2, 13)


@pytest.mark.parametrize("is_able", [True, False])
def test_the_convolution_is_asked_for_and_else_done(
    is_able: bool, u: Tensor, documents: Tensor
) -> None:
    backend = AbleScan(is_able=is_able)
    mixer = mixer_with(backend)
    _, state = mixer(u, documents)
    for inputs in ((u, documents), (u, None, state)):
        torch.testing.assert_close(mixer(*inputs), own_result(mixer, *inputs))

    assert backend.asked == ["convolve"] * 3


@pytest.mark.parametrize("is_able", [True, False])
def test_the_whole_mixer_is_asked_for_and_else_done(
    is_able: bool, u: Tensor, documents: Tensor
) -> None:
    backend = WholeScan(is_able=is_able)
    mixer = mixer_with(backend)
    expected = own_result(mixer, u, documents)
    torch.testing.assert_close(mixer(u, documents), expected)

    assert backend.asked == (["mix"] if is_able else ["mix", "convolve"])


def test_the_whole_mixer_is_not_asked_to_go_on_from_a_state(u: Tensor) -> None:
    backend = WholeScan(is_able=True)
    mixer = mixer_with(backend)
    mixer(u, None, mixer.initial_state(2))

    assert backend.asked == ["convolve"]


def test_an_adapter_of_out_proj_takes_part(u: Tensor) -> None:
    mixer = mixer_with(WholeScan(is_able=True))
    before, _ = mixer(u)
    adapter = nn.Linear(32, 16, bias=False, dtype=torch.float64)
    own = mixer.out_proj
    mixer.out_proj.register_forward_hook(lambda module, inputs, output: output + adapter(*inputs))
    after, _ = mixer(u)
    after.sum().backward()

    assert mixer.out_proj is own
    assert not torch.allclose(before, after)
    assert adapter.weight.grad is not None
    assert adapter.weight.grad.abs().max() > 0


def test_the_plain_backends_promise_nothing_more() -> None:
    assert not isinstance(ChunkedScan(), ConvolvingBackend | MixingBackend)
