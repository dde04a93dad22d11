"""Scores and texts of our models do not depend on what is beside them."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from biomamba.data.tokenizer import Tokenizer
from biomamba.evaluation.answer_model import ScoreRequest
from biomamba.evaluation.models.ours import MambaAnswers
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import CheckpointError
from biomamba.tasks.task import WriteText

TOKENIZER = Tokenizer.byte_tokenizer()
PROMPTS = ["Is it?", "Does metformin lower HbA1c? Answer:", "a", "The answer, in short,"]
LABELS = [" yes", " no", " maybe", " n"]
CONFIGS = {
    "mamba2": Mamba2Config(d_model=16, n_layer=2, vocab_size=257, d_state=4, headdim=8),
    "mamba1": Mamba1Config(d_model=16, n_layer=2, vocab_size=257, d_state=4),
}


def make_model(config: MambaConfig) -> MambaLM:
    torch.manual_seed(0)
    model = MambaLM(config, ChunkedScan(chunk_size=4)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def answers_of(model: MambaLM, prefill_tokens: int = 7) -> MambaAnswers:
    origin = ("runs/x/model", "c" * 64)
    return MambaAnswers("model", model, TOKENIZER, checkpoint=origin, prefill_tokens=prefill_tokens)


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request: pytest.FixtureRequest) -> MambaLM:
    return make_model(CONFIGS[request.param])


def ids_of(texts: Sequence[str]) -> list[list[int]]:
    return TOKENIZER.encode_batch(texts)


def whole_pass(model: MambaLM, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Return what one forward pass over end of document, prompt and answer says."""
    ids = [TOKENIZER.eod_id, *prompt, *answer]
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).log_softmax(-1)[0]
    return sum(float(log_p[n - 1, ids[n]]) for n in range(1 + len(prompt), len(ids)))


def test_scores_are_those_of_one_pass_each(model: MambaLM) -> None:
    requests = [
        ScoreRequest(prompt, ids_of(LABELS)[: 1 + n]) for n, prompt in enumerate(ids_of(PROMPTS))
    ]
    found = answers_of(model).score(requests)

    assert [len(scores) for scores in found] == [1, 2, 3, 4]
    for request, scores in zip(requests, found, strict=True):
        for answer, score in zip(request.answers, scores, strict=True):
            assert score == pytest.approx(whole_pass(model, request.prompt_ids, answer), abs=1e-9)


def test_the_answers_to_a_prompt_of_one_id_add_up_to_one(model: MambaLM) -> None:
    request = ScoreRequest(
        ids_of(PROMPTS)[1], [[token] for token in range(model.config.padded_vocab_size)]
    )
    (scores,) = answers_of(model).score([request])

    assert torch.tensor(scores, dtype=torch.float64).exp().sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_features_together_equal_one_by_one(pooling: str, model: MambaLM) -> None:
    answers = answers_of(model)
    together = answers.features(ids_of(PROMPTS), pooling)

    assert together.shape == (4, model.config.d_model)
    assert together.dtype == np.float64
    for prompt, found in zip(ids_of(PROMPTS), together, strict=True):
        assert answers.features([prompt], pooling)[0] == pytest.approx(found, abs=1e-11)


def test_the_last_features_are_what_the_logits_are_made_of(model: MambaLM) -> None:
    (prompt,) = ids_of(PROMPTS[1:2])
    with torch.no_grad():
        logits = model(torch.tensor([[TOKENIZER.eod_id, *prompt]]))[0, -1]
        found = torch.from_numpy(answers_of(model).features([prompt], "last"))

        torch.testing.assert_close(model.logits(found)[0], logits, rtol=0, atol=1e-10)


def test_texts_together_equal_one_by_one(model: MambaLM) -> None:
    answers, options = answers_of(model), WriteText(max_new_tokens=12)
    together = answers.write(ids_of(PROMPTS), options)

    assert together == [answers.write([prompt], options)[0] for prompt in ids_of(PROMPTS)]
    assert {written.stop_reason for written in together} <= {"eos", "length"}
    assert any(written.candidates[0] for written in together)


def test_several_candidates_are_different_and_end_before_the_stop(model: MambaLM) -> None:
    answers = answers_of(model)
    stop = answers.write(ids_of(PROMPTS[:1]), WriteText(max_new_tokens=3))[0].candidates[0][-1]
    options = WriteText(max_new_tokens=6, stop=[stop], num_candidates=4)
    together = answers.write(ids_of(PROMPTS), options)

    assert together == [answers.write([prompt], options)[0] for prompt in ids_of(PROMPTS)]
    for written in together:
        assert 1 <= len(written.candidates) <= 4
        assert len({text.strip() for text in written.candidates}) == len(written.candidates)
        assert all(stop not in text for text in written.candidates)


def test_one_text_ends_before_its_stop(model: MambaLM) -> None:
    answers = answers_of(model)
    (free,) = answers.write(ids_of(PROMPTS[:1]), WriteText(max_new_tokens=8))
    stop = free.candidates[0][2:4]
    (written,) = answers.write(ids_of(PROMPTS[:1]), WriteText(max_new_tokens=8, stop=[stop]))

    assert written.candidates[0] == free.candidates[0].split(stop)[0]
    assert written.stop_reason == "stop"


def test_nothing_asked_is_nothing_answered(model: MambaLM) -> None:
    answers = answers_of(model)

    assert answers.score([]) == []
    assert answers.score([ScoreRequest([1], [])]) == [[]]
    assert answers.write([], WriteText(max_new_tokens=1)) == []


def test_an_answer_without_ids_is_refused(model: MambaLM) -> None:
    with pytest.raises(ValueError, match="an answer has no ids"):
        answers_of(model).score([ScoreRequest([1], [[2], []])])


def test_a_tokenizer_of_another_model_is_refused() -> None:
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=250, d_state=4, headdim=8)
    with pytest.raises(CheckpointError, match=r"model: the tokenizer has 257 ids, but .* 250"):
        answers_of(make_model(config))
