"""The n best continuations, compared with all continuations there are."""

import itertools
from collections.abc import Sequence

import pytest
import torch

from biomamba.inference.beam_search import BeamOptions, Hypothesis, IsStopped, beam_search
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.decoder import Decoder
from biomamba.model.generation import GenerationOptions, Vocabulary, generate
from biomamba.model.language_model import MambaLM

PROMPTS = [[1, 2, 3, 4], [5], [3, 3, 1, 0, 2, 4, 5, 1]]
VOCABULARY = Vocabulary(6, 0)


@pytest.fixture(scope="module")
def model() -> MambaLM:
    torch.manual_seed(3)
    config = Mamba2Config(d_model=16, n_layer=2, vocab_size=6, d_state=4, headdim=8)
    model = MambaLM(config, ChunkedScan(chunk_size=4)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def search(
    model: MambaLM,
    prompts: Sequence[Sequence[int]],
    width: int,
    steps: int,
    is_stopped: IsStopped = lambda _: False,
) -> list[list[Hypothesis]]:
    options = BeamOptions(width=width, max_new_tokens=steps, prefill_tokens=3)
    return beam_search(Decoder(model), prompts, options, VOCABULARY, is_stopped)


def every_hypothesis(model: MambaLM, prompt: list[int], steps: int) -> list[Hypothesis]:
    """Score all continuations by the whole forward pass."""
    found = []
    bodies = [b for n in range(steps + 1) for b in itertools.product(range(1, 6), repeat=n)]
    for body in bodies:
        is_full = len(body) == steps
        ids = [*prompt, *body] + ([] if is_full else [0])
        with torch.no_grad():
            log_p = model(torch.tensor([ids])).log_softmax(-1)[0]
        total = sum(float(log_p[n - 1, ids[n]]) for n in range(len(prompt), len(ids)))
        found.append(Hypothesis(tuple(body), total, "length" if is_full else "eos"))
    return sorted(found, key=lambda one: -one.score)


def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all(model: MambaLM) -> None:
    steps, width = 3, 6 * 5 * 5
    (found,) = search(model, PROMPTS[:1], width, steps)
    best = every_hypothesis(model, PROMPTS[0], steps)[:10]

    assert [one.ids for one in found[:10]] == [one.ids for one in best]
    assert [one.reason for one in found[:10]] == [one.reason for one in best]
    for ours, theirs in zip(found, best, strict=False):
        assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-9)


def test_prompts_together_equal_one_by_one(model: MambaLM) -> None:
    together = search(model, PROMPTS, 4, 5)
    alone = [search(model, [prompt], 4, 5)[0] for prompt in PROMPTS]

    assert [[h.ids for h in hs] for hs in together] == [[h.ids for h in hs] for hs in alone]
    for ours, theirs in zip(itertools.chain(*together), itertools.chain(*alone), strict=True):
        assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-9)


def test_a_beam_of_one_without_an_end_is_greedy(model: MambaLM) -> None:
    vocabulary = Vocabulary(6, None)
    options = BeamOptions(width=1, max_new_tokens=6)
    found = beam_search(Decoder(model), PROMPTS, options, vocabulary)
    greedy = generate(model, PROMPTS, GenerationOptions(max_new_tokens=6), vocabulary)

    assert [list(one.ids) for (one,) in found] == greedy


def test_hypotheses_are_different_and_ranked(model: MambaLM) -> None:
    for found in search(model, PROMPTS, 5, 6):
        scores = [one.score for one in found]
        assert len(found) == 5
        assert len({one.ids for one in found}) == 5
        assert scores == sorted(scores, reverse=True)


def test_a_stop_text_ends_a_hypothesis(model: MambaLM) -> None:
    found = search(model, PROMPTS, 4, 5, is_stopped=lambda ids: ids[-1] == 2)

    ended = [one for hypotheses in found for one in hypotheses if one.reason == "stop"]
    assert ended
    assert all(one.ids[-1] == 2 for one in ended)
    assert all(2 not in one.ids[:-1] for hypotheses in found for one in hypotheses)


@pytest.mark.parametrize("name", ["width", "max_new_tokens", "prefill_tokens"])
def test_options_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .* at least 1, found 0"):
        BeamOptions(**{"width": 1, "max_new_tokens": 1, name: 0})
