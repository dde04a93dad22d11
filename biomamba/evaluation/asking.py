"""Put the items of a task to a model."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from biomamba.data.document import document_key
from biomamba.evaluation.answer_model import (
    AnswerModel,
    FeatureModel,
    Passage,
    PassageReader,
    ScoreRequest,
    Written,
    score_request,
)
from biomamba.evaluation.answer_options import AnswerOptions
from biomamba.evaluation.label_head import LabelHead
from biomamba.evaluation.raw_answer import Hidden, RawAnswer, key_of
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.answer_parser import parse_label
from biomamba.tasks.item import Item
from biomamba.tasks.prediction import ANSWERED, EMPTY, UNPARSABLE, Prediction
from biomamba.tasks.prompt import EncodedPrompt
from biomamba.tasks.task import ChooseLabel, ChooseOption, Task, WriteText

_RESTRICTED = "restricted"
_END_OF_LABEL = ("\n",)


def is_restricted(task: Task) -> bool:
    """Whether no text of a task may be kept."""
    return task.access == _RESTRICTED


def written_prediction(item: Item, raw: RawAnswer) -> Prediction:
    """Return the prediction that written texts are."""
    return Prediction(
        id=item.id,
        text=raw.candidates[0].strip() if raw.candidates else "",
        label=raw.label,
        candidates=[text.strip() for text in raw.candidates],
        status=raw.status,
        num_cut_tokens=raw.num_cut_tokens,
    )


def require_features(model: AnswerModel) -> FeatureModel:
    """Return a model as one that shows its hidden states.

    Raises:
        ConfigError: It does not.
    """
    if isinstance(model, FeatureModel):
        return model
    raise ConfigError(
        f"answers=head reads the hidden states of our own models; {model.label} "
        f"({model.checkpoint}) gives none: ask it with answers=likelihood or answers=generation"
    )


class Questions:
    """A task, a model, and how the one is put to the other.

    Args:
        head: What chooses the labels with label_by=head, once it is fitted.
    """

    def __init__(
        self,
        task: Task,
        model: AnswerModel,
        options: AnswerOptions,
        head: LabelHead | None = None,
    ) -> None:
        self.task, self.model, self.options, self._head = task, model, options, head

    def batches(self, items: Sequence[Item]) -> list[list[Item]]:
        """Return the items in batches of similar length, the longest first.

        Which items stand together depends on nothing but the items and the batch size.
        """
        parts = self.task.prompt.parts

        def length(item: Item) -> tuple[int, int]:
            return -sum(len(item.parts.get(name, "")) for name in parts), document_key(item.id)

        ordered, size = sorted(items, key=length), self.options.batch_size
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def ask(self, items: Sequence[Item]) -> list[RawAnswer]:
        """Return what the model says to each item.

        Raises:
            DataError: A prompt does not fit even without what it may lose, or a probability is not
                finite.
            ConfigError: The model cannot give such answers.
        """
        restricted = is_restricted(self.task)
        return [
            replace(
                self._without_texts(item, raw) if restricted else raw,
                key=key_of(self.task.name, item.id, is_restricted=restricted),
            )
            for item, raw in zip(items, self._ask(items), strict=True)
        ]

    def _ask(self, items: Sequence[Item]) -> Iterator[RawAnswer]:
        answer = self.task.answer
        if isinstance(answer, WriteText):
            return self._write(items, answer)
        if isinstance(self.model, PassageReader):
            raise ConfigError(
                f"{self.model.label} marks answers in a passage; task {self.task.name} wants a "
                "label or an option"
            )
        if isinstance(answer, ChooseLabel) and self.options.label_by == "generation":
            return self._write_labels(items, answer)
        if isinstance(answer, ChooseLabel) and self.options.label_by == "head":
            return self._ask_head(items)
        return self._score(items, answer)

    def _score(
        self, items: Sequence[Item], answer: ChooseLabel | ChooseOption
    ) -> Iterator[RawAnswer]:
        texts = [answer.labels if isinstance(answer, ChooseLabel) else _texts(i) for i in items]
        prompts = [self._prompts(item, each) for item, each in zip(items, texts, strict=True)]
        requests = [
            [self._request(prompt, each if len(found) == 1 else each[:1]) for prompt in found]
            for found, each in zip(prompts, texts, strict=True)
        ]
        asked = [request for each in requests for request in each]
        scores = iter(self._finite(self.model.score(asked)))
        for found, each, prior in zip(prompts, requests, self._priors(texts), strict=True):
            yield RawAnswer(
                key="",
                log_probabilities=[score for _ in each for score in next(scores)],
                prior_log_probabilities=prior,
                num_tokens=[len(ids) for request in each for ids in request.answers],
                num_cut_tokens=max(prompt.num_cut_tokens for prompt in found),
            )

    def features(self, items: Sequence[Item]) -> tuple[NDArray[np.float64], list[int]]:
        """Return the hidden states behind the prompts, pooled, and how much was cut of each.

        Raises:
            ConfigError: The model has no hidden states to give.
        """
        model, head = require_features(self.model), self.options.head
        assert head is not None
        prompts = [self._encode(item, 0) for item in items]
        found = model.features([prompt.ids for prompt in prompts], head.pooling)
        return found, [prompt.num_cut_tokens for prompt in prompts]

    def _ask_head(self, items: Sequence[Item]) -> Iterator[RawAnswer]:
        assert self._head is not None
        features, cut = self.features(items)
        scores = self._finite(self._head.log_probabilities(features).tolist())
        for found, num_cut in zip(scores, cut, strict=True):
            yield RawAnswer(key="", log_probabilities=found, num_cut_tokens=num_cut)

    def _finite(self, scores: list[list[float]]) -> list[list[float]]:
        """Return log probabilities of labels or options, all of them finite.

        Raises:
            DataError: One is not.
        """
        if not all(math.isfinite(score) for each in scores for score in each):
            raise DataError(
                f"{self.model.label} gives an answer to {self.task.name} a probability that is not "
                "finite: damaged weights?"
            )
        return scores

    def _prompts(self, item: Item, texts: Sequence[str]) -> list[EncodedPrompt]:
        """Return the prompt of an item, or one for each option that stands in it."""
        replaced = item.option_parts or [{}]
        items = [replace(item, parts={**item.parts, **parts}) for parts in replaced]
        return [self._encode(each, self._longest(texts)) for each in items]

    def _priors(self, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the scores behind the prompt with every part empty; the same ones once."""
        if not self.options.prior_correction:
            return [[] for _ in texts]
        different = list(dict.fromkeys(tuple(each) for each in texts))
        empty = [self._request(self._empty_prompt, each) for each in different]
        scores = self._finite(self.model.score(empty))
        found = dict(zip(different, scores, strict=True))
        return [found[tuple(each)] for each in texts]

    @cached_property
    def _empty_prompt(self) -> EncodedPrompt:
        parts = dict.fromkeys(self.task.prompt.parts, "")
        return self._encode(Item(id="an empty item", parts=parts, target=""), 0)

    def _write(self, items: Sequence[Item], answer: WriteText) -> Iterator[RawAnswer]:
        if isinstance(self.model, PassageReader):
            passages = [self._passage(item) for item in items]
            written, cut = self.model.read(passages, answer.num_candidates), [0] * len(items)
        else:
            prompts = [self._encode(item, answer.max_new_tokens) for item in items]
            written = self.model.write([prompt.ids for prompt in prompts], answer)
            cut = [prompt.num_cut_tokens for prompt in prompts]
        for found, num_cut in zip(written, cut, strict=True):
            status = ANSWERED if found.candidates[0].strip() else EMPTY
            yield _raw(found, status, None, num_cut)

    def _write_labels(self, items: Sequence[Item], answer: ChooseLabel) -> Iterator[RawAnswer]:
        wanted = WriteText(self.options.max_label_tokens, _END_OF_LABEL)
        prompts = [self._encode(item, wanted.max_new_tokens) for item in items]
        written = self.model.write([prompt.ids for prompt in prompts], wanted)
        for found, prompt in zip(written, prompts, strict=True):
            text = found.candidates[0].strip()
            label = parse_label(text, answer.labels) if text else None
            status = ANSWERED if label is not None else UNPARSABLE if text else EMPTY
            yield _raw(found, status, label, prompt.num_cut_tokens)

    def _encode(self, item: Item, num_answer_tokens: int) -> EncodedPrompt:
        limit, most = self.options.max_prompt_tokens, self.model.max_tokens
        if most is not None:
            limit = min(limit, most - num_answer_tokens)
        return self.task.prompt.encode(item, self.model.tokenizer, limit)

    def _request(self, prompt: EncodedPrompt, texts: Sequence[str]) -> ScoreRequest:
        answers = [self.task.prompt.answer(text) for text in texts]
        return score_request(self.model.tokenizer, prompt, answers)

    def _longest(self, texts: Sequence[str]) -> int:
        """Return the number of ids of the longest answer, where a model has a limit."""
        if self.model.max_tokens is None:
            return 0
        answers = [self.task.prompt.answer(text) for text in texts]
        return max(map(len, self.model.tokenizer.encode_batch(answers)))

    def _passage(self, item: Item) -> Passage:
        missing = sorted({"question", "context"} - set(item.parts))
        if missing:
            raise ConfigError(
                f"{self.model.label} marks answers in a passage; the items of task "
                f"{self.task.name} have no {missing}"
            )
        return Passage(item.parts["question"], item.parts["context"])

    def _without_texts(self, item: Item, raw: RawAnswer) -> RawAnswer:
        """Keep hashes, lengths and figures in the place of texts."""
        columns = {}
        if isinstance(self.task.answer, WriteText):
            measures = self.task.measures([item], [written_prediction(item, raw)])
            columns = {measure.name: measure.columns[0].tolist() for measure in measures}
        hidden = [Hidden.of(text) for text in raw.candidates]
        return replace(raw, candidates=(), hidden=hidden, columns=columns)


def _texts(item: Item) -> Sequence[str]:
    """Return the text that is scored for each option."""
    return [item.target] * len(item.options) if item.option_parts else item.options


def _raw(written: Written, status: str, label: str | None, num_cut_tokens: int) -> RawAnswer:
    return RawAnswer(
        key="",
        candidates=list(written.candidates),
        label=label,
        status=status,
        stop_reason=written.stop_reason,
        num_cut_tokens=num_cut_tokens,
    )
