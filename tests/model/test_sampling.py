from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.model.generation import Sampler, Sampling

CPU = torch.device("cpu")
SHARES = [0.4, 0.3, 0.2, 0.1]


def sampler(sampling: Sampling, prompts: list[list[int]], seeds: list[int], size: int) -> Sampler:
    return Sampler(sampling, prompts, seeds, size, CPU)


# Each case differs from the next simpler one; sums of the shares are off the bounds of p.
@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), SHARES),
        (Sampling(temperature=0.5), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),  # squares
        (Sampling(temperature=1.0, top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(temperature=1.0, top_k=9), SHARES),
        (Sampling(temperature=1.0, top_p=0.69), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.75), [4 / 9, 3 / 9, 2 / 9, 0]),
        (Sampling(temperature=1.0, top_k=3, top_p=0.5), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(temperature=1.0, top_p=1e-6), [1, 0, 0, 0]),
        (Sampling(temperature=1.0, top_k=1), [1, 0, 0, 0]),
    ],
)
def test_probabilities(sampling: Sampling, expected: list[float]) -> None:
    logits = torch.tensor([SHARES, SHARES[::-1]], dtype=torch.float64).log()
    wanted = torch.tensor([expected, expected[::-1]], dtype=torch.float64)

    torch.testing.assert_close(sampling.probabilities(logits), wanted)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.6), (9, 0.8)])
@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
def test_scores_are_those_of_transformers(
    temperature: float, top_k: int, top_p: float, penalty: float
) -> None:
    processors = pytest.importorskip("transformers.generation.logits_process")
    ids = torch.tensor([[3, 3, 7, 0], [1, 2, 3, 4]])
    logits = 3 * torch.randn(2, 40, dtype=torch.float64)
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty
    )
    seen = torch.zeros(2, 40, dtype=torch.bool).scatter_(1, ids, True)
    ours = sampling.penalise(logits, seen)
    theirs = processors.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)

    if temperature == 0:
        return
    theirs = processors.TemperatureLogitsWarper(temperature)(ids, theirs)
    if top_k:
        theirs = processors.TopKLogitsWarper(top_k)(ids, theirs)
    if top_p < 1:
        theirs = processors.TopPLogitsWarper(top_p)(ids, theirs)
    torch.testing.assert_close(sampling.probabilities(ours), theirs.softmax(-1))


def test_draws_follow_the_probabilities() -> None:
    """The standard error of a share among 4,000 draws is below 0.008."""
    logits = torch.tensor([SHARES]).log()
    choice = sampler(Sampling(temperature=1.0, top_k=3), [[0]], [0], 4)
    drawn = torch.cat([choice.choose(logits) for _ in range(4_000)])
    shares = drawn.bincount(minlength=4) / len(drawn)

    assert (shares - torch.tensor([4 / 9, 3 / 9, 2 / 9, 0])).abs().max() < 0.03
    assert shares[3] == 0


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_an_id_of_probability_zero_is_not_drawn_at_either_end(
    uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch, "rand", lambda *_, **__: torch.tensor([uniform], dtype=torch.float64)
    )
    logits = torch.tensor([[-torch.inf, 0.1, 0.2, -torch.inf, 0.3, -torch.inf]])
    chosen = sampler(Sampling(temperature=1.0), [[0]], [0], 6).choose(logits)

    assert chosen.item() == {0.0: 1, 0.5: 2, 1 - 2**-53: 4}[uniform]


def test_a_row_draws_the_same_alone_and_among_others() -> None:
    logits = torch.randn(5, 3, 50)

    def draws(seeds: list[int], rows: list[int]) -> Tensor:
        choice = sampler(Sampling(temperature=1.0), [[0]] * len(rows), seeds, 50)
        return torch.stack([choice.choose(step[rows]) for step in logits])

    together = draws([7, 8, 9], [0, 1, 2])
    for row, seed in enumerate([7, 8, 9]):
        assert torch.equal(draws([seed], [row])[:, 0], together[:, row])
    assert not torch.equal(draws([1], [0])[:, 0], together[:, 0])


def test_kept_rows_keep_their_stream_and_their_memory() -> None:
    sampling = Sampling(temperature=1.0, repetition_penalty=50.0)
    logits = torch.randn(6, 1, 50).abs()
    choice = sampler(sampling, [[1], [2, 3], [4]], [7, 8, 9], 50)
    alone = sampler(sampling, [[2, 3]], [8], 50)
    for step in logits[:3]:
        assert choice.choose(step.expand(3, -1))[1] == alone.choose(step)[0]
    choice.keep([1])
    for step in logits[3:]:
        assert torch.equal(choice.choose(step), alone.choose(step))


def test_penalty_counts_prompt_and_chosen_ids() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.5, -1.0]])
    choice = sampler(Sampling(repetition_penalty=2.0), [[0]], [0], 4)

    # 4 of the prompt counts 2; 3, once chosen, 1.5; then all but the negative one are halved.
    assert [choice.choose(logits).item() for _ in range(4)] == [1, 2, 0, 0]


def test_an_excluded_id_is_not_chosen() -> None:
    logits = torch.tensor([[1.0, 5.0, 2.0]])

    assert sampler(Sampling(), [[0]], [0], 3).choose(logits, excluded_id=1).item() == 2
    assert logits[0, 1] == 5


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -1.0, "temperature must be .*, found -1.0"),
        ("temperature", float("nan"), "temperature must be .*, found nan"),
        ("temperature", float("inf"), "temperature must be .*, found inf"),
        ("top_k", -1, "top_k must be .*, found -1"),
        ("top_p", 0.0, "top_p must be .* above 0 and at most 1, found 0.0"),
        ("top_p", 1.1, "top_p must be .*, found 1.1"),
        ("repetition_penalty", 0.0, "repetition_penalty must be .*, found 0.0"),
        ("repetition_penalty", float("nan"), "repetition_penalty must be .*, found nan"),
    ],
)
def test_sampling_out_of_range_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**{field: value})
