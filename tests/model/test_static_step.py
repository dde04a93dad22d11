"""Steps on fixed memory: the numbers of ordinary ones, in operations that never change."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.cuda_graphs import StaticMamba2Step, StaticPlainStep, StaticStep
from biomamba.model.decoder import Decoder
from biomamba.model.language_model import MambaLM
from biomamba.model.lora import Lora

Draw = Callable[..., Tensor]
SMALL = {"d_model": 16, "n_layer": 2, "vocab_size": 37, "d_state": 8}
CONFIGS: dict[str, MambaConfig] = {
    "mamba1": Mamba1Config(**SMALL),
    "mamba2": Mamba2Config(**SMALL, headdim=8, ngroups=2),
    "static_B": Mamba2Config(**SMALL, headdim=8, static=["B"]),
}
KINDS = [*CONFIGS, "bfloat16", "adapters"]
PRODUCTS = {"bfloat16": torch.bfloat16}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def decoder(kind: str) -> Decoder:
    model = MambaLM(CONFIGS.get(kind, CONFIGS["mamba2"]), ChunkedScan(8))
    if kind == "adapters":
        Lora(rank=2, alpha=4.0, targets=["in_proj", "out_proj"]).add_to(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Decoder(model, PRODUCTS.get(kind))


def addresses(step: StaticStep) -> list[int]:
    found = [step.ids, step._slot]
    for block in step._blocks:
        if isinstance(block, StaticMamba2Step):
            found += [block._ring, block._ssm]
        else:
            assert isinstance(block, StaticPlainStep)
            found += list(block._state)
    return [tensor.data_ptr() for tensor in found]


def test_every_position_is_that_of_the_ordinary_step_to_the_bit(
    decoder: Decoder, random_ids: Draw
) -> None:
    """Over more positions than the ring of the convolution has places."""
    ids, model = random_ids(3, 11), decoder.model
    states = model.hidden(ids[:, :4])[1]
    decoder.load(states)
    step = StaticStep(decoder, 3)
    step.load(states)
    before = addresses(step)
    for position in range(4, 11):
        step.ids.copy_(ids[:, position])
        step()
        assert torch.equal(step.logits, decoder.step(ids[:, position]))
    for mine, other in zip(step.states(3), decoder.states(), strict=True):
        assert torch.equal(mine.conv, other.conv)
        assert torch.equal(mine.ssm, other.ssm)
    assert addresses(step) == before


def test_the_host_waits_for_no_number(decoder: Decoder, recording_capture: Any) -> None:
    step = StaticStep(decoder, 2)
    recording_capture(step, torch.device("cpu"))
    assert len(recording_capture.recordings[0].calls) > 20


@pytest.mark.parametrize("read", [Tensor.item, Tensor.nonzero, Tensor.unique])
def test_a_recording_finds_what_the_host_waits_for(
    read: Callable[[Tensor], Any], recording_capture: Any
) -> None:
    with pytest.raises(RuntimeError, match="the host waits for"):
        recording_capture(lambda: read(torch.zeros(1)), torch.device("cpu"))


def test_rows_of_a_larger_step_are_those_of_their_own(decoder: Decoder, random_ids: Draw) -> None:
    """Two rows move to other places in a step of four; the other places hold anything."""
    ids, model = random_ids(4, 9), decoder.model
    states = model.hidden(ids[:, :5])[1]
    step = StaticStep(decoder, 4)
    step.load(states)
    step.move(torch.tensor([3, 1]))
    decoder.load(states)
    decoder.keep([3, 1])
    for position in range(5, 9):
        step.ids[:2] = ids[[3, 1], position]
        step()
        torch.testing.assert_close(step.logits[:2], decoder.step(ids[[3, 1], position]))
    torch.testing.assert_close(step.states(2), decoder.states())


def test_weights_are_shared_with_the_decoder(random_ids: Draw) -> None:
    decoder = Decoder(MambaLM(CONFIGS["mamba2"], ChunkedScan(8)))
    (first, *_), (mine, *_) = StaticStep(decoder, 2)._blocks, decoder.blocks
    assert vars(first)["_in_product"] is vars(mine)["_in_product"]
    assert vars(first)["_ssm"] is not vars(mine)["_ssm"]


def test_a_step_made_in_inference_mode_serves_outside_of_it(random_ids: Draw) -> None:
    decoder = Decoder(MambaLM(CONFIGS["mamba2"], ChunkedScan(8)))
    with torch.inference_mode():
        step = StaticStep(decoder, 2)
        step()
    step()
    assert not step.ids.is_inference()


def test_autocast_outside_changes_nothing() -> None:
    decoder = Decoder(MambaLM(CONFIGS["mamba2"], ChunkedScan(8)))
    steps = StaticStep(decoder, 1), StaticStep(decoder, 1)
    steps[0]()
    with torch.autocast("cpu", torch.bfloat16):
        steps[1]()
    assert torch.equal(steps[0].logits, steps[1].logits)
