"""Items as they are put to a model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from biomamba.evaluation.answer_model import Hidden, Passage, ScoreRequest, Written
from biomamba.evaluation.answers import AnswerOptions, Questions, fit_head
from biomamba.evaluation.label_head import HeadOptions
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.task import ChooseOption, Task, WriteText

Build = Callable[..., Any]
OPTIONS = AnswerOptions(batch_size=4)


def test_labels_are_scored_whole_behind_the_prompt(toy_task: Build, toy_model: Build) -> None:
    task, model = toy_task(), toy_model()
    items = task.held_out().items[:3]
    found = Questions(task, model, OPTIONS).ask(items)

    assert model.asked == [task.prompt.render(item.parts) for item in items]
    assert [raw.key for raw in found] == [item.id for item in items]
    assert found[0].num_tokens == [4, 3, 6]  # bytes of " yes", " no" and " maybe"
    assert len({tuple(raw.log_probabilities) for raw in found}) == 3


def test_prior_is_the_score_behind_the_empty_prompt(toy_task: Build, toy_model: Build) -> None:
    task, model = toy_task(), toy_model()
    found = Questions(task, model, replace(OPTIONS, prior_correction=True)).ask(
        task.held_out().items[:3]
    )

    assert model.asked[-1] == "Context: N/A\nQuestion: N/A\nAnswer:"
    assert len(model.asked) == 4
    assert len({tuple(raw.prior_log_probabilities) for raw in found}) == 1
    assert all(raw.prior_log_probabilities != raw.log_probabilities for raw in found)


def test_options_are_those_of_the_item(toy_task: Build, toy_model: Build) -> None:
    task = toy_task(kind=ChooseOption())
    items = [replace(item, options=("a", "bc")) for item in task.held_out().items[:2]]

    for raw in Questions(task, toy_model(), OPTIONS).ask(items):
        assert raw.num_tokens == [2, 3]


def test_options_in_the_prompt_are_scored_by_what_follows(
    toy_task: Build, toy_model: Build
) -> None:
    task, model = toy_task(kind=ChooseOption()), toy_model()
    item = replace(
        task.held_out().items[0],
        target="it fits",
        options=("a", "b"),
        option_parts=[{"question": "Is it a?"}, {"question": "Is it b?"}],
    )
    raws = Questions(task, model, replace(OPTIONS, prior_correction=True)).ask([item] * 2)

    asked = [prompt.split("Question: ")[1] for prompt in model.asked]
    assert asked == ["Is it a?\nAnswer:", "Is it b?\nAnswer:"] * 2 + ["N/A\nAnswer:"]
    prompt = model.tokenizer.encode(model.asked[1])
    answer = model.tokenizer.encode(" it fits")
    for raw in raws:
        assert raw.log_probabilities[1] == model.score([ScoreRequest(prompt, [answer])])[0][0]
        assert raw.log_probabilities[0] != raw.log_probabilities[1]
        assert raw.prior_log_probabilities[0] == raw.prior_log_probabilities[1]
        assert raw.num_tokens == [8, 8]


def test_a_written_label_is_read_strictly(toy_task: Build, toy_model: Build) -> None:
    task, items = toy_task(), toy_task().held_out().items
    found = Questions(task, toy_model(), replace(OPTIONS, label_by="generation")).ask(items)
    read = {(raw.candidates[0].strip(), raw.label, raw.status) for raw in found}

    assert read <= {
        ("Yes.", "yes", "answered"),
        ("no", "no", "answered"),
        ("maybe", "maybe", "answered"),
        ("perhaps", None, "unparsable"),
        ("", None, "empty"),
    }
    assert len(read) == 5


def test_a_prompt_leaves_room_for_the_answer(toy_task: Build, toy_model: Build) -> None:
    task = toy_task()
    item = next(item for item in task.held_out().items if len(item.parts["context"]) > 40)
    (raw,) = Questions(task, toy_model(), OPTIONS).ask([item])
    assert raw.num_cut_tokens == 0

    model = toy_model(max_tokens=60)
    (raw,) = Questions(task, model, OPTIONS).ask([item])
    assert raw.num_cut_tokens > 0
    assert 60 - 6 - 3 <= len(model.asked[0]) <= 60 - 6  # " maybe" takes 6

    written = toy_task(kind=WriteText(max_new_tokens=10))
    model = toy_model(max_tokens=60)
    Questions(written, model, OPTIONS).ask([item])
    assert 47 <= len(model.asked[0]) <= 50


def test_a_prompt_that_cannot_fit_is_refused(toy_task: Build, toy_model: Build) -> None:
    with pytest.raises(DataError, match="20 are allowed"):
        Questions(toy_task(), toy_model(), replace(OPTIONS, max_prompt_tokens=20)).ask(
            toy_task().held_out().items[:1]
        )


def test_batches_hold_every_item_once_and_do_not_depend_on_the_order(
    toy_task: Build, toy_model: Build
) -> None:
    task, items = toy_task(), toy_task().held_out().items
    questions = Questions(task, toy_model(), OPTIONS)
    batches = questions.batches(items)

    assert sorted(item.id for batch in batches for item in batch) == sorted(i.id for i in items)
    assert [len(batch) for batch in batches] == [4] * 5 + [3]
    assert batches == questions.batches(items[::-1])
    lengths = [len(item.parts["context"]) for batch in batches for item in batch]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("access", ["open", "restricted"])
def test_a_head_gives_the_log_probabilities_of_the_labels(
    access: str, toy_task: Build, feature_model: Build
) -> None:
    task, model = toy_task(access=access), feature_model()
    options = replace(
        OPTIONS, label_by="head", head=HeadOptions(pooling="max"), max_prompt_tokens=60
    )
    head = fit_head(task, model, options)
    items = task.held_out().items[3:6]
    model.asked.clear()
    found = Questions(task, model, options, head).ask(items)

    prompts = [task.prompt.encode(item, model.tokenizer, 60) for item in items]
    assert model.asked == [prompt.text for prompt in prompts]
    features = model.features([prompt.ids for prompt in prompts], "max")
    assert [raw.log_probabilities for raw in found] == head.log_probabilities(features).tolist()
    assert [raw.num_cut_tokens for raw in found] == [prompt.num_cut_tokens for prompt in prompts]
    assert any(raw.num_cut_tokens for raw in found)
    assert not any(raw.candidates for raw in found)


@pytest.mark.parametrize("label_by", ["likelihood", "generation"])
def test_nothing_of_a_restricted_label_task_is_kept_as_text(
    label_by: str, toy_task: Build, toy_model: Build
) -> None:
    task = toy_task(access="restricted")
    options = replace(OPTIONS, label_by=label_by)
    for raw in Questions(task, toy_model(), options).ask(task.held_out().items):
        assert len(raw.key) == 64
        assert not raw.candidates


def test_restricted_texts_leave_hash_length_and_what_they_add(
    toy_task: Build, toy_model: Build
) -> None:
    task: Task = toy_task(kind=WriteText(max_new_tokens=5), access="restricted")
    items = task.held_out().items
    known = Questions(replace(task, access="open"), toy_model(), OPTIONS).ask(items)  # type: ignore[type-var]
    found = Questions(task, toy_model(), OPTIONS).ask(items)

    for raw, other in zip(found, known, strict=True):
        assert raw.hidden == [Hidden.of(text) for text in other.candidates]
        assert raw.columns["length"] == [len(other.candidates[0].strip()), 1]
        assert not raw.candidates
        assert not other.columns


class Reader:
    """Marks the first word of a passage."""

    label, max_tokens = "reader", None

    def read(self, passages: Sequence[Passage], num_candidates: int) -> list[Written]:
        return [Written([p.context.split()[0]][:num_candidates], "eos") for p in passages]


def test_a_reader_of_passages_gets_question_and_context(toy_task: Build) -> None:
    task = toy_task(kind=WriteText(max_new_tokens=5))
    items = [item for item in task.held_out().items if item.parts["context"]][:2]
    reader: Any = Reader()

    found = Questions(task, reader, OPTIONS).ask(items)
    assert [raw.candidates for raw in found] == [["secret"]] * 2

    with pytest.raises(ConfigError, match="reader marks answers in a passage; task toy wants"):
        Questions(toy_task(), reader, OPTIONS).ask(items)
    with pytest.raises(ConfigError, match=r"have no \['context'\]"):
        Questions(task, reader, OPTIONS).ask([replace(items[0], parts={"question": "?"})])


@pytest.mark.parametrize("score", [math.nan, -math.inf])
def test_a_probability_that_is_not_finite_is_an_error(
    toy_task: Build, toy_model: Build, monkeypatch: pytest.MonkeyPatch, score: float
) -> None:
    task, model = toy_task(), toy_model()
    monkeypatch.setattr(type(model), "score", lambda _, asked: [[0.0, score, 0.0] for _ in asked])
    with pytest.raises(DataError, match=r"toy a probability that is not finite"):
        Questions(task, model, OPTIONS).ask(task.held_out().items[:3])
