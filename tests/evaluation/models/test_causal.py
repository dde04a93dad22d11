"""Causal models of transformers, compared with plain forward passes."""

import json
import shutil
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from biomamba.data.tokenizer import Tokenizer
from biomamba.evaluation.answer_model import ScoreRequest, score_request
from biomamba.evaluation.models.causal import TransformersCausal
from biomamba.evaluation.models.loading import Pretrained
from biomamba.evaluation.models.ours import MambaAnswers
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.checkpoint import load_pretrained
from biomamba.runtime.errors import CheckpointError, ConfigError, DataError
from biomamba.tasks.prompt import EncodedPrompt
from biomamba.tasks.task import WriteText

KINDS = ("gpt2", "gpt_neox", "llama", "biogpt", "mamba", "mamba2", "rwkv")
PROMPTS = ("Is it safe? Answer:", "Metformin lowers the glucose. Does it cure asthma? Answer:", "a")
ANSWERS = (" yes", " no", " maybe not", " no, maybe", " maybe")


@cache
def load(folder: Path, batch_size: int = 8) -> TransformersCausal:
    return TransformersCausal(Pretrained.find(str(folder)), label="other", batch_size=batch_size)


@cache
def plain(folder: Path) -> tuple[Any, Any]:
    """Load model and tokenizer as a user of transformers would."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def plain_score(folder: Path, begin: Sequence[int], prompt: str, answer: str) -> float:
    """Score with one forward pass over the joined text, as a user of transformers would."""
    model, tokenizer = plain(folder)
    ids = [*begin, *tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]]
    first = len(begin) + len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logits[n - 1, ids[n]]) for n in range(first, len(ids)))


def requests_of(model: TransformersCausal, prompts: Sequence[str]) -> list[ScoreRequest]:
    ids = model.tokenizer.encode_batch(prompts)
    encoded = [EncodedPrompt(text, each, 0) for text, each in zip(prompts, ids, strict=True)]
    return [score_request(model.tokenizer, prompt, ANSWERS) for prompt in encoded]


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_answer_is_scored_as_by_a_plain_forward_pass(kind: str, save_model: Any) -> None:
    model = load(save_model(kind))

    found = model.score(requests_of(model, PROMPTS[:1]))

    begin = {"llama": [1], "biogpt": [2]}.get(kind, [0])
    assert model.first_ids == begin
    expected = [plain_score(save_model(kind), begin, PROMPTS[0], answer) for answer in ANSWERS]
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert max(expected) - min(expected) > 1  # else nothing was distinguished


@pytest.mark.parametrize("kind", KINDS)
def test_scores_do_not_depend_on_the_batch(kind: str, save_model: Any) -> None:
    together, alone = load(save_model(kind)), load(save_model(kind), batch_size=1)
    requests = requests_of(together, PROMPTS)

    one_by_one = [alone.score([request])[0] for request in requests]

    for found, expected in zip(together.score(requests), one_by_one, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "num_candidates"),
    [*((kind, 1) for kind in KINDS), *((kind, 3) for kind in KINDS if kind != "rwkv")],
)
def test_texts_do_not_depend_on_the_batch(kind: str, num_candidates: int, save_model: Any) -> None:
    together, alone = load(save_model(kind), batch_size=12), load(save_model(kind), batch_size=1)
    prompts = together.tokenizer.encode_batch(PROMPTS)
    options = WriteText(max_new_tokens=8, num_candidates=num_candidates)

    found = together.write(prompts, options)

    assert found == [alone.write([prompt], options)[0] for prompt in prompts]
    assert num_candidates == 1 or any(len(written.candidates) > 1 for written in found)


@pytest.mark.parametrize("kind", KINDS)
def test_one_candidate_is_the_greedy_text(kind: str, save_model: Any) -> None:
    model = load(save_model(kind))
    prompt = model.tokenizer.encode_batch(PROMPTS[:1])[0]

    ids = [*model.first_ids, *prompt]
    for _ in range(6):
        with torch.no_grad():
            logits = plain(save_model(kind))[0](torch.tensor([ids])).logits[
                0, -1, : model.tokenizer.vocab_size
            ]
        ids.append(int(logits.argmax()))
    new = ids[len(model.first_ids) + len(prompt) :]
    assert model.eos_id not in new

    head = model.tokenizer.decode(prompt[-1:])
    expected = model.tokenizer.decode([prompt[-1], *new])[len(head) :]
    assert model.write([prompt], WriteText(6))[0].candidates == [expected]
    assert model.write([prompt], WriteText(6))[0].stop_reason == "length"


def test_candidates_are_ranked_by_log_probability(save_model: Any) -> None:
    model = load(save_model("gpt2"))
    prompt = model.tokenizer.encode_batch(PROMPTS[:1])[0]

    found = model.write([prompt], WriteText(1, num_candidates=24))[0].candidates

    every = range(1, model.tokenizer.vocab_size)
    scores = model.score([ScoreRequest(prompt, [[token] for token in every])])[0]
    best = sorted(every, key=lambda token: -scores[token - 1])
    texts = [model.tokenizer.decode([prompt[-1], token])[1:] for token in best]
    different = list(dict.fromkeys(text.strip() for text in texts))
    assert [text.strip() for text in found[:5]] == different[:5]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(kind: str, save_model: Any) -> None:
    model = load(save_model(kind))
    prompts = model.tokenizer.encode_batch(PROMPTS)
    whole = [written.candidates[0] for written in model.write(prompts, WriteText(8))]
    stop = whole[0][3:5]

    found = model.write(prompts, WriteText(8, stop=[stop]))

    for text, written in zip(whole, found, strict=True):
        place = text.find(stop)
        assert written.candidates == [text if place < 0 else text[:place]]
        assert (written.stop_reason == "stop") == (place >= 0)


def test_the_end_of_a_text_ends_an_answer(save_model: Any) -> None:
    model = load(save_model("gpt2"))
    inner, bias = model._model, torch.zeros(model._model.config.vocab_size)
    bias[model.eos_id] = 100.0
    prompt = model.tokenizer.encode_batch(PROMPTS[:1])[0]

    hook = inner.lm_head.register_forward_hook(lambda _, __, logits: logits + bias)
    found = model.write([prompt], WriteText(8))
    hook.remove()

    assert [(list(written.candidates), written.stop_reason) for written in found] == [([""], "eos")]


def test_ids_without_a_text_are_never_chosen(save_model: Any) -> None:
    model = load(save_model("gpt2"))
    inner, bias = model._model, torch.zeros(model._model.config.vocab_size)
    bias[model.tokenizer.vocab_size :] = 100.0
    prompt = model.tokenizer.encode_batch(PROMPTS[:1])[0]
    expected = model.write([prompt], WriteText(4))

    hook = inner.lm_head.register_forward_hook(lambda _, __, logits: logits + bias)
    found = model.write([prompt], WriteText(4))
    hook.remove()

    assert found == expected


def test_what_a_checkpoint_says_about_generation_does_not_count(
    save_model: Any, tmp_path: Path
) -> None:
    folder = shutil.copytree(save_model("gpt2"), tmp_path / "model")
    settings = {"do_sample": True, "temperature": 9.0, "min_length": 50, "repetition_penalty": 5.0}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    model, changed = load(save_model("gpt2")), load(folder)
    prompts = model.tokenizer.encode_batch(PROMPTS)

    assert changed.write(prompts, WriteText(8)) == model.write(prompts, WriteText(8))


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "biogpt"])
def test_more_than_a_model_can_read_is_refused(kind: str, save_model: Any) -> None:
    model = load(save_model(kind))
    assert model.max_tokens == 127  # of 128 positions, after the id that starts a text

    assert len(model.score([ScoreRequest([5] * 124, [[6, 7, 8]])])[0]) == 1
    assert model.write([[5] * 124], WriteText(3))
    with pytest.raises(DataError, match=r"at most 127 ids.* these are 128"):
        model.score([ScoreRequest([5] * 125, [[6], [6, 7, 8]])])
    with pytest.raises(DataError, match=r"at most 127 ids.* these are 128"):
        model.write([[5] * 125], WriteText(3))


def test_nothing_limits_a_recurrent_model(save_model: Any) -> None:
    assert load(save_model("mamba")).max_tokens is None


def test_a_model_that_nothing_begins_is_refused(save_model: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(save_model("gpt2"), tmp_path / "model")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        found = json.loads((folder / name).read_text())
        gone = {key: None for key in found if key.startswith(("bos_token", "eos_token"))}
        (folder / name).write_text(json.dumps(found | gone))

    with pytest.raises(CheckpointError, match=r"neither tokenizer nor .* names a bos"):
        load(folder)


def test_a_tokenizer_of_another_model_is_refused(save_model: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(save_model("gpt2"), tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"more{n}" for n in range(4)])  # the head has three more rows
    tokenizer.save_pretrained(folder)

    with pytest.raises(CheckpointError, match="the tokenizer has 3"):
        load(folder)


def test_a_model_that_transformers_cannot_search_with_is_refused(save_model: Any) -> None:
    model = load(save_model("rwkv"))

    with pytest.raises(ConfigError, match="cannot write 3 answers with this model"):
        model.write([[5]], WriteText(3, num_candidates=3))


def test_an_answer_without_ids_is_refused(save_model: Any) -> None:
    with pytest.raises(ValueError, match="an answer has no ids"):
        load(save_model("gpt2")).score([ScoreRequest([5], [[6], []])])


def test_our_reading_of_the_same_checkpoint_gives_the_same_scores(save_model: Any) -> None:
    model = load(save_model("mamba2"))
    folder = save_model("mamba2")
    ours = MambaAnswers(
        "ours",
        load_pretrained(folder, ChunkedScan()).eval(),
        Tokenizer.load(str(folder / "tokenizer.json")),
        checkpoint=(str(folder), model.checkpoint_sha256),
    )
    requests = requests_of(model, PROMPTS)
    prompts = [request.prompt_ids for request in requests]

    assert model.tokenizer.encode_batch(PROMPTS) == ours.tokenizer.encode_batch(PROMPTS)
    for found, expected in zip(model.score(requests), ours.score(requests), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    for options in (WriteText(6), WriteText(4, num_candidates=3)):
        assert model.write(prompts, options) == ours.write(prompts, options)


def test_a_beam_is_ranked_by_log_probability_per_id_with_the_end_counted(save_model: Any) -> None:
    model = load(save_model("gpt2"))
    letters = model.tokenizer.encode_batch(["b", "d", "j"])
    assert [len(ids) for ids in letters] == [1, 1, 1]
    few = [ids[0] for ids in letters]
    only = torch.full((model._model.config.vocab_size,), -1e9)
    only[[model.eos_id, *few]] = 0
    prompt = model.tokenizer.encode_batch(PROMPTS[:1])[0]

    hook = model._model.lm_head.register_forward_hook(lambda _, __, logits: logits + only)
    found = model.write([prompt], WriteText(3, num_candidates=15))[0].candidates
    ended = [[*ids, model.eos_id] for n in range(3) for ids in product(few, repeat=n)]
    every = [*ended, *(list(ids) for ids in product(few, repeat=3))]
    totals = model.score([ScoreRequest(prompt, every)])[0]
    hook.remove()

    def ranked(scores: Sequence[float]) -> list[str]:
        best = sorted(range(len(every)), key=lambda n: -scores[n])
        return ["".join("bdj"[few.index(i)] for i in every[n] if i in few) for n in best]

    expected = ranked([total / len(ids) for total, ids in zip(totals, every, strict=True)])
    assert list(found[:8]) == expected[:8]
    assert expected[:8] != ranked(totals)[:8]  # else the length made no difference


@pytest.mark.parametrize("num_candidates", [1, 3])
def test_a_model_without_an_end_of_text_writes_to_a_stop_text_or_the_length(
    num_candidates: int, save_model: Any, tmp_path: Path
) -> None:
    folder = shutil.copytree(save_model("gpt_neox"), tmp_path / "model")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        found = json.loads((folder / name).read_text())
        gone = {key: None for key in found if key.startswith("eos_token")}
        (folder / name).write_text(json.dumps(found | gone))
    model = load(folder)
    prompts = model.tokenizer.encode_batch(PROMPTS)
    stop = model.write(prompts[:1], WriteText(8))[0].candidates[0][3:5]
    options = WriteText(8, stop=[stop], num_candidates=num_candidates)

    written = model.write(prompts, options)

    assert model.eos_id is None
    assert written == [model.write([prompt], options)[0] for prompt in prompts]
    assert {found.stop_reason for found in written} <= {"stop", "length"}
    assert not any(stop in text for found in written for text in found.candidates)
