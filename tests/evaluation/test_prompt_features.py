"""Pooled hidden states are those of one pass over each prompt alone."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from biomamba.evaluation.models.ours import pooled_hidden
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.language_model import MambaLM

PROMPTS = [[9, 1], [9, 5, 3, 8, 2, 7, 4, 4, 1], [9, 2, 6, 5], [9, 3, 3, 3, 1, 8, 8]]
CONFIGS = {
    "mamba2": Mamba2Config(d_model=16, n_layer=2, vocab_size=10, d_state=4, headdim=8),
    "mamba1": Mamba1Config(d_model=16, n_layer=2, vocab_size=10, d_state=4),
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request: pytest.FixtureRequest) -> MambaLM:
    torch.manual_seed(0)
    config: MambaConfig = CONFIGS[request.param]
    model = MambaLM(config, ChunkedScan(chunk_size=4)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def alone(model: MambaLM, prompt: Sequence[int], pooling: str) -> Tensor:
    """Return the definition: one pass, then the pooling of what follows the first id."""
    behind = model.hidden(torch.tensor([prompt]))[0][0, 1:]
    return {"last": behind[-1], "mean": behind.mean(0), "max": behind.amax(0)}[pooling]


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize("segment_tokens", [1, 3, 9, 64])
def test_together_and_in_segments_equal_one_pass_each(
    segment_tokens: int, pooling: str, model: MambaLM
) -> None:
    with torch.no_grad():
        found = pooled_hidden(model, PROMPTS, pooling, segment_tokens)

    assert found.dtype == torch.float64
    expected = torch.stack([alone(model, prompt, pooling) for prompt in PROMPTS])
    # Float64 sums of fewer than 100 products of size 1, in another order.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_poolings_differ_and_see_the_prompt(pooling: str, model: MambaLM) -> None:
    others = {"last", "mean", "max"} - {pooling}
    with torch.no_grad():
        found = pooled_hidden(model, PROMPTS, pooling, 64)
        for other in others:
            assert not torch.allclose(found[1:], pooled_hidden(model, PROMPTS, other, 64)[1:])
    assert not torch.allclose(found[0], found[2])


def test_what_gives_no_vector_is_refused(model: MambaLM) -> None:
    with pytest.raises(ValueError, match="a prompt has no ids"):
        pooled_hidden(model, [[9, 1], [9]], "mean", 64)
    with pytest.raises(ValueError, match="pooling is 'first'; allowed: last, mean, max"):
        pooled_hidden(model, PROMPTS, "first", 64)
