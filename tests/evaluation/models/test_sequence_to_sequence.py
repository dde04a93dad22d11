"""Encoder-decoders of transformers, compared with plain forward passes."""

import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from biomamba.evaluation.answer_model import ScoreRequest, score_request
from biomamba.evaluation.models.loading import Pretrained
from biomamba.evaluation.models.sequence_to_sequence import TransformersSeq2Seq
from biomamba.runtime.errors import CheckpointError, DataError
from biomamba.tasks.prompt import EncodedPrompt
from biomamba.tasks.task import WriteText

KINDS = ("t5", "bart")
PROMPTS = ("Is it safe? Answer:", "Metformin lowers the glucose. Does it cure asthma? Answer:", "a")
ANSWERS = (" yes", " no", " maybe not", " no, maybe", " maybe")
BEFORE = {"t5": [0], "bart": [2, 0]}  # T5: the id of the filling; BART: </s> <s>


@cache
def load(folder: Path, batch_size: int = 8) -> TransformersSeq2Seq:
    return TransformersSeq2Seq(Pretrained.find(str(folder)), label="other", batch_size=batch_size)


@cache
def plain(folder: Path) -> tuple[Any, Any]:
    """Load model and tokenizer as a user of transformers would."""
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def requests_of(model: TransformersSeq2Seq, prompts: Sequence[str]) -> list[ScoreRequest]:
    return [score_request(model.tokenizer, EncodedPrompt(text, [], 0), ANSWERS) for text in prompts]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_scored_as_the_loss_of_the_model_scores_it(kind: str, save_model: Any) -> None:
    network, tokenizer = plain(save_model(kind))
    expected = []
    for answer in ANSWERS:
        # What training would do: the loss over the labels, here only over those of the answer.
        inputs = tokenizer(PROMPTS[0], return_tensors="pt")
        labels = tokenizer(text_target=answer.strip(), return_tensors="pt")["input_ids"]
        skipped = len(BEFORE[kind]) - 1
        with torch.no_grad():
            logits = network(**inputs, labels=labels).logits[0].double().log_softmax(-1)
        places = range(skipped, labels.shape[1] - 1)  # without <s> and </s>
        expected.append(sum(float(logits[n, labels[0, n]]) for n in places))

    found = load(save_model(kind)).score(requests_of(load(save_model(kind)), PROMPTS[:1]))

    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert max(expected) - min(expected) > 1  # else nothing was distinguished


@pytest.mark.parametrize("kind", KINDS)
def test_scores_do_not_depend_on_the_batch(kind: str, save_model: Any) -> None:
    together, alone = load(save_model(kind)), load(save_model(kind), batch_size=1)
    requests = requests_of(together, PROMPTS)

    one_by_one = [alone.score([request])[0] for request in requests]

    for found, expected in zip(together.score(requests), one_by_one, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_candidates", [1, 3])
def test_texts_do_not_depend_on_the_batch(kind: str, num_candidates: int, save_model: Any) -> None:
    together, alone = load(save_model(kind), batch_size=12), load(save_model(kind), batch_size=1)
    prompts = together.tokenizer.encode_batch(PROMPTS)
    options = WriteText(max_new_tokens=8, num_candidates=num_candidates)

    found = together.write(prompts, options)

    assert found == [alone.write([prompt], options)[0] for prompt in prompts]
    assert num_candidates == 1 or any(len(written.candidates) > 1 for written in found)


@pytest.mark.parametrize("kind", KINDS)
def test_one_candidate_is_the_greedy_text(kind: str, save_model: Any) -> None:
    network, tokenizer = plain(save_model(kind))
    model = load(save_model(kind))
    inputs, ids = tokenizer(PROMPTS[0], return_tensors="pt"), list(BEFORE[kind])
    while len(ids) < len(BEFORE[kind]) + 6 and ids[1:][-1:] != [tokenizer.eos_token_id]:
        with torch.no_grad():
            logits = network(**inputs, decoder_input_ids=torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits[: len(tokenizer)].argmax()))
    expected = tokenizer.decode(ids[len(BEFORE[kind]) :], skip_special_tokens=True)

    found = model.write(model.tokenizer.encode_batch(PROMPTS[:1]), WriteText(6))[0]

    assert list(found.candidates) == [expected]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_text_ends_an_answer(kind: str, save_model: Any) -> None:
    model = load(save_model(kind))
    prompts = model.tokenizer.encode_batch(PROMPTS[:1])
    whole = model.write(prompts, WriteText(8))[0].candidates[0]
    stop = whole[2:4]

    found = model.write(prompts, WriteText(8, stop=[stop]))[0]

    assert found.candidates == [whole[: whole.find(stop)]]
    assert found.stop_reason == "stop"


def test_more_than_a_model_can_read_is_refused(save_model: Any) -> None:
    model = load(save_model("bart"))
    assert model.max_tokens == 126  # of 128 positions, between <s> and </s>

    assert model.score([ScoreRequest([5] * 124, [[6, 7]])])
    with pytest.raises(DataError, match=r"at most 126 ids"):
        model.score([ScoreRequest([5] * 124, [[6, 7, 8]])])
    with pytest.raises(DataError, match=r"at most 126 ids"):
        model.write([[5] * 124], WriteText(3))
    assert load(save_model("t5")).max_tokens is None


def test_a_decoder_that_nothing_starts_is_refused(save_model: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(save_model("bart"), tmp_path / "model")
    for name in ("config.json", "generation_config.json"):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(found | {"decoder_start_token_id": None}))

    with pytest.raises(CheckpointError, match="no decoder_start_token_id"):
        load(folder)
