"""Put the items of a task to a model, and turn its responses into predictions."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from biomamba.data.document import document_key
from biomamba.evaluation.answer_model import (
    AnswerModel,
    FeatureModel,
    Hidden,
    Passage,
    PassageReader,
    RawAnswer,
    ScoreRequest,
    Written,
    key_of,
    score_request,
)
from biomamba.evaluation.label_head import HeadOptions, LabelHead, LabelledFeatures, fit_label_head
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_whole
from biomamba.runtime.ranks import is_rank_zero
from biomamba.tasks.labels import parse_label
from biomamba.tasks.prompt import EncodedPrompt, Item
from biomamba.tasks.task import (
    ANSWERED,
    EMPTY,
    UNPARSABLE,
    ChooseLabel,
    ChooseOption,
    Prediction,
    Task,
    WriteText,
)

# -------------------------------------------------------------------------------------------------
# How models are asked for the answers of tasks.
# -------------------------------------------------------------------------------------------------

LABEL_BY = ("likelihood", "generation", "head")
DECISIONS = ("argmax", "thresholds")
SPLITS = ("test", "val")


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How models are asked, and how a label follows from what they answer.

    Attributes:
        split: Items of the test split, or of val, to choose settings with.
        label_by: `likelihood` scores every label whole; `generation` lets the model write and reads
            a label strictly (biomamba/tasks/labels.py); `head` asks a linear head that was
            fitted on training and validation items (biomamba/evaluation/label_head.py).
        head: How the head is fitted; None with the other ways.
        prior_correction: Divide the probability of an answer by the one it has after the prompt
            with every part empty. Source: Zhao et al., arXiv 2102.09690; Holtzman et al.,
            arXiv 2104.08315.
        decision: `argmax`, or `thresholds`: an offset for every label but the first, fitted on the
            validation split.
        max_prompt_tokens: Ids of a prompt; longer ones lose what their template lets go. In
            fine-tuning a prompt has seq_len - max_target_tokens.
        max_label_tokens: Ids written for a label.
        batch_size: Items that are asked together; of consequence for speed and memory only.
        max_items: The first so many items by a hash of their id; None: all.
        num_random_draws: How often the random baseline answers all items.

    Raises:
        ConfigError: A value is not allowed, or one has no meaning beside another.
    """

    split: str = "test"
    label_by: str = "likelihood"
    head: HeadOptions | None = None
    prior_correction: bool = False
    decision: str = "argmax"
    max_prompt_tokens: int = 992
    max_label_tokens: int = 8
    batch_size: int = 8
    max_items: int | None = None
    num_random_draws: int = 200

    def __post_init__(self) -> None:
        allowed = {"split": SPLITS, "label_by": LABEL_BY, "decision": DECISIONS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; allowed: {', '.join(values)}"
                )
        for name in ("max_prompt_tokens", "max_label_tokens", "batch_size", "num_random_draws"):
            check_whole(name, getattr(self, name))
        check_whole("max_items", self.max_items, optional=True)
        self._check_head()
        if self.label_by == "generation" and (self.prior_correction or self.fits_thresholds):
            raise ConfigError(
                "prior_correction and decision=thresholds work on likelihoods; set "
                "label_by=likelihood, or leave them off"
            )
        if self.fits_thresholds and self.split == "val":
            raise ConfigError(
                "decision=thresholds fits on the validation split, so figures of split=val would "
                "be those of the items it was fitted on; set split=test or decision=argmax"
            )

    def _check_head(self) -> None:
        if (self.label_by == "head") != (self.head is not None):
            raise ConfigError(
                f"label_by is {self.label_by!r} and head {self.head}; label_by=head needs the node "
                "head and the other ways have none: choose with answers=..."
            )
        if self.head is not None and self.prior_correction:
            raise ConfigError(
                "prior_correction works on likelihoods, and a head gives none; leave it off, or "
                "set answers=likelihood"
            )
        if self.head is not None and self.split == "val":
            raise ConfigError(
                "answers=head chooses its l2 on the validation split, so figures of split=val "
                "would be those of the items it was chosen on; set split=test, and compare the "
                "val_nll in the records to choose between heads"
            )

    @property
    def fits_thresholds(self) -> bool:
        """Whether the validation split is answered too."""
        return self.decision == "thresholds"


# -------------------------------------------------------------------------------------------------
# Show how the answering comes along: items, rate and remaining time; on stderr.
# -------------------------------------------------------------------------------------------------


class AnswerProgress:
    """One line per task and model, on rank zero only; never shows an item."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            disable=not is_rank_zero(),
        )

    def __enter__(self) -> "AnswerProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def line(self, name: str, num_items: int, num_done: int) -> "Line":
        """Add a line; `num_done` of its items were answered in an earlier run."""
        return Line(
            self._progress,
            self._progress.add_task(name, total=num_items, completed=num_done, rate=""),
        )


class Line:
    """One line of the progress."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self._begin, self._num_new = time.perf_counter(), 0

    def advance(self, num_items: int) -> None:
        """Count items that were just answered."""
        self._num_new += num_items
        rate = self._num_new / (time.perf_counter() - self._begin)
        self._progress.update(self._task, advance=num_items, rate=f"{rate:.2f} items/s")


# -------------------------------------------------------------------------------------------------
# Put the items of a task to a model.
# -------------------------------------------------------------------------------------------------

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

        Which items are together depends on nothing but the items and the batch size.
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
        """Return the hidden states after the prompts, pooled, and how much was cut of each.

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
        """Return the prompt of an item, or one for each option that is in it."""
        replaced = item.option_parts or [{}]
        items = [replace(item, parts={**item.parts, **parts}) for parts in replaced]
        return [self._encode(each, self._longest(texts)) for each in items]

    def _priors(self, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the scores after the prompt with every part empty; the same ones once."""
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


# -------------------------------------------------------------------------------------------------
# From the scores of labels and options to predictions.
#
# Every rule is an argmax of one number per answer: its log-probability, divided by its length if
# the task says so, minus that after an empty prompt if asked (prior correction), plus an offset per
# label if thresholds were fitted. For two labels an offset is a threshold on their log-odds.
# -------------------------------------------------------------------------------------------------

NORMALISATIONS = ("bytes", "tokens", "none")
# Offsets that are tried, in nats: a factor of 1/400 to 400 between two labels.
_GRID = [step / 10 for step in range(-60, 61)]
_MAX_ROUNDS = 10


@dataclass(frozen=True)
class Decision:
    """How answers follow from scores.

    Attributes:
        offsets: Added to the score of each label, in nats; empty: nothing is.
        num_fitted: Items of the validation split that the offsets were fitted on.
    """

    offsets: Mapping[str, float] = field(default_factory=dict)
    num_fitted: int = 0

    def described(self) -> dict[str, Any]:
        """Return what a record says of it."""
        if not self.offsets:
            return {"decision": "argmax"}
        return {
            "decision": "thresholds",
            "offsets": dict(self.offsets),
            "fitted_on": "val",
            "num_fitted": self.num_fitted,
        }


def predict(task: Task, item: Item, raw: RawAnswer, decision: Decision) -> Prediction:
    """Return the prediction that follows from an answer."""
    answer = task.answer
    if not raw.log_probabilities:
        return written_prediction(item, raw)
    texts = answer.labels if isinstance(answer, ChooseLabel) else item.options
    scores = _scores(task, texts, raw)
    scores = [s + decision.offsets.get(text, 0) for s, text in zip(scores, texts, strict=True)]
    best = max(range(len(scores)), key=scores.__getitem__)
    return Prediction(
        id=item.id,
        text=texts[best],
        label=texts[best] if isinstance(answer, ChooseLabel) else None,
        scores=dict(zip(texts, _softmax(scores), strict=True)),
        num_cut_tokens=raw.num_cut_tokens,
    )


def fit_offsets(
    labels: Sequence[str], value: Callable[[Mapping[str, float]], float]
) -> dict[str, float]:
    """Return the offsets with the largest value, that of the first label being 0.

    One label after the other takes the best offset of a grid, until none changes; of equally good
    ones the smallest stays, so that nothing is fitted where nothing is gained.
    """
    offsets = dict.fromkeys(labels, 0.0)
    best = value(offsets)
    for _ in range(_MAX_ROUNDS):
        before = dict(offsets)
        for label in labels[1:]:
            for offset in sorted(_GRID, key=abs):
                tried = value({**offsets, label: offset})
                if tried > best:
                    best, offsets = tried, {**offsets, label: offset}
        if offsets == before:
            break
    return offsets


def fit_decision(task: Task, items: Sequence[Item], raws: Sequence[RawAnswer]) -> Decision:
    """Return the thresholds with the best main measure on items of the validation split.

    Raises:
        ConfigError: The task has no labels or no such items.
    """
    answer = task.answer
    if not isinstance(answer, ChooseLabel):
        raise ConfigError(
            f"decision=thresholds: task {task.name} has no labels; use decision=argmax for it"
        )
    if not items:
        raise ConfigError(
            f"decision=thresholds: task {task.name} has no validation items; use decision=argmax"
        )

    def value(offsets: Mapping[str, float]) -> float:
        decision = Decision(offsets)
        predictions = [predict(task, i, raw, decision) for i, raw in zip(items, raws, strict=True)]
        main = task.measures(items, predictions)[0]
        return main.value if main.higher_is_better in (True, None) else -main.value

    return Decision(fit_offsets(answer.labels, value), len(items))


def _scores(task: Task, texts: Sequence[str], raw: RawAnswer) -> list[float]:
    """Return one number per answer, the larger the better."""
    scores = list(raw.log_probabilities)
    if raw.prior_log_probabilities:
        pairs = zip(scores, raw.prior_log_probabilities, strict=True)
        scores = [score - prior for score, prior in pairs]
    if isinstance(task.answer, ChooseOption):
        lengths = _lengths(task.answer.normalise, texts, raw)
        scores = [score / length for score, length in zip(scores, lengths, strict=True)]
    return scores


def _lengths(normalise: str, texts: Sequence[str], raw: RawAnswer) -> list[int]:
    match normalise:
        case "none":
            return [1] * len(texts)
        case "tokens":
            return list(raw.num_tokens)
        case "bytes":
            return [max(1, len(text.encode())) for text in texts]
    raise ConfigError(f"normalise is {normalise!r}; allowed: {', '.join(NORMALISATIONS)}")


def _softmax(scores: Sequence[float]) -> list[float]:
    largest = max(scores)
    weights = [math.exp(score - largest) for score in scores]
    return [weight / sum(weights) for weight in weights]


# -------------------------------------------------------------------------------------------------
# Heads of label tasks: from the training and validation items of a task to a fitted head.
# -------------------------------------------------------------------------------------------------

TRAIN, VAL = "train", "val"


class Heads:
    """The heads of an evaluation, each fitted when it is first wanted.

    Every rank fits all of them, on the same features in the same order, so they are the same bit
    for bit; the headers of the answers hold a rank to it.

    Args:
        options: How models are asked.

    Raises:
        ConfigError: A model has no hidden states to give.
    """

    def __init__(
        self, models: Sequence[AnswerModel], tasks: Sequence[Task], options: AnswerOptions
    ) -> None:
        self._options = options
        self._fitted: dict[tuple[str, str], LabelHead] = {}
        if any(self._wants(task) for task in tasks):
            for model in models:
                require_features(model)

    def of(
        self, task: Task, model: AnswerModel, progress: AnswerProgress | None = None
    ) -> LabelHead | None:
        """Return the head of a model for a task; None where the task is asked otherwise."""
        if not self._wants(task):
            return None
        key = (task.name, model.label)
        if key not in self._fitted:
            self._fitted[key] = fit_head(task, model, self._options, progress)
        return self._fitted[key]

    def _wants(self, task: Task) -> bool:
        return self._options.head is not None and isinstance(task.answer, ChooseLabel)


def fit_head(
    task: Task,
    model: AnswerModel,
    options: AnswerOptions,
    progress: AnswerProgress | None = None,
) -> LabelHead:
    """Fit the head of a model for a label task; no test item is read.

    Raises:
        DataError: There are no training or validation items, or not of every label.
    """
    assert isinstance(task.answer, ChooseLabel)
    assert options.head is not None
    splits = {split: _labelled_items(task, split) for split in (TRAIN, VAL)}
    advance: Callable[[int], None] = _ignore
    if progress is not None:
        num_items = sum(map(len, splits.values()))
        advance = progress.line(f"{task.name}.{model.label} head", num_items, 0).advance
    questions = Questions(task, model, options)
    train, val = (_features(questions, items, advance) for items in splits.values())
    return fit_label_head(task.answer.labels, train, val, options.head)


def _labelled_items(task: Task, split: str) -> Sequence[Item]:
    assert isinstance(task.answer, ChooseLabel)
    items = task.items(split).items
    odd = sum(item.label not in task.answer.labels for item in items)
    if odd or not items:
        found = f"{odd} of {len(items)} items without one of its labels" if odd else "no items"
        raise DataError(
            f"task {task.name} has {found} in its split {split}, which a head needs; ask with "
            "answers=likelihood"
        )
    return items


def _features(
    questions: Questions, items: Sequence[Item], advance: Callable[[int], None]
) -> LabelledFeatures:
    """Return the features of items in an order that depends on the items alone."""
    assert isinstance(questions.task.answer, ChooseLabel)
    batches = questions.batches(items)
    rows = []
    for batch in batches:
        rows.append(questions.features(batch)[0])
        advance(len(batch))
    numbers = {label: number for number, label in enumerate(questions.task.answer.labels)}
    labels = [numbers[item.label or ""] for batch in batches for item in batch]
    return LabelledFeatures(np.concatenate(rows), np.array(labels, dtype=np.int64))


def _ignore(num_items: int) -> None:
    """Show nothing."""
