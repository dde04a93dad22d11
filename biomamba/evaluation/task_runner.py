"""Evaluate models on tasks: answers on all ranks; predictions and records on rank zero."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from biomamba.evaluation.answer_model import AnswerLog, AnswerModel, RawAnswer, key_of
from biomamba.evaluation.answers import (
    AnswerOptions,
    AnswerProgress,
    Decision,
    Heads,
    Questions,
    fit_decision,
    is_restricted,
    predict,
)
from biomamba.evaluation.label_head import LabelHead
from biomamba.evaluation.records import CHANGE, TaskRecord
from biomamba.evaluation.task_split import TEST, TaskSplit
from biomamba.metrics.measure import Bootstrap, Measure, interval_of
from biomamba.metrics.significance import mcnemar, minimum_detectable_difference, paired_difference
from biomamba.runtime.ranks import rank, world_size
from biomamba.tasks.clinical_notes import WritingTask
from biomamba.tasks.prompt import Item
from biomamba.tasks.task import EMPTY, ChooseLabel, ChooseOption, Prediction, Task, WriteText
from biomamba.training.lineage import UNKNOWN, FilterStatus, Lineage

# -------------------------------------------------------------------------------------------------
# What answers without a model are worth: the most frequent label, and chance.
# -------------------------------------------------------------------------------------------------

MAJORITY, RANDOM = "majority", "random"


def majority_measures(
    task: Task, items: Sequence[Item], training_labels: Sequence[str]
) -> Sequence[Measure]:
    """Return the figures of the most frequent label of the training split; none without labels."""
    if not training_labels:
        return []
    assert isinstance(task.answer, ChooseLabel)
    counts = Counter(training_labels)
    label = max(task.answer.labels, key=lambda label: counts[label])  # the first of equals
    predictions = [Prediction(id=item.id, text=label, label=label) for item in items]
    return task.measures(items, predictions)


def random_values(
    task: Task, items: Sequence[Item], num_draws: int, seed: int
) -> dict[str, list[float]]:
    """Return the value of every measure, by name, for each draw of uniform answers to all items.

    None for tasks whose answers are written.
    """
    answer = task.answer
    if not isinstance(answer, ChooseLabel | ChooseOption):
        return {}
    is_label = isinstance(answer, ChooseLabel)
    texts = [answer.labels if isinstance(answer, ChooseLabel) else item.options for item in items]
    sizes = np.array([len(each) for each in texts])
    rng = np.random.Generator(np.random.Philox([seed, len(items)]))
    values: dict[str, list[float]] = {}
    for _ in range(num_draws):
        places = (rng.random(len(items)) * sizes).astype(np.int64).tolist()
        chosen = [each[place] for each, place in zip(texts, places, strict=True)]
        predictions = [
            Prediction(id=item.id, text=text, label=text if is_label else None)
            for item, text in zip(items, chosen, strict=True)
        ]
        for measure in task.measures(items, predictions):
            values.setdefault(measure.name, []).append(measure.value)
    return values


# -------------------------------------------------------------------------------------------------
# From the predictions of models on a task to records: figures, intervals, comparisons.
# -------------------------------------------------------------------------------------------------

POWER = 0.8


@dataclass(frozen=True)
class Performance:
    """What a model achieved.

    Attributes:
        model: Its label.
        measures: Its figures.
        answer: How its answers came about; see `TaskRecord`.
        checkpoint_sha256: Of its weights; None of what is no model.
        filtered: Whether the items were kept out of its training data; None of what is no model.
    """

    model: str
    measures: Sequence[Measure]
    answer: Mapping[str, Any]
    checkpoint_sha256: str | None
    filtered: FilterStatus | None = None


class TaskFigures:
    """Makes the records of one split of a task.

    Args:
        split: The task and its items.
        data_fingerprint: Of the files of the task.
        bootstrap: How intervals are drawn.
        provenance: What all records carry.
    """

    def __init__(
        self,
        split: TaskSplit,
        data_fingerprint: str,
        bootstrap: Bootstrap,
        provenance: Mapping[str, Any],
    ) -> None:
        self._split, self._bootstrap = split, bootstrap
        self._groups = [item.unit for item in split.items]
        task = split.task
        self._shared = TaskRecord(
            task=task.name,
            protocol=task.protocol,
            split=split.split,
            metric="",
            value=0.0,
            low=0.0,
            high=0.0,
            level=bootstrap.level,
            method="",
            n=len(split.items),
            n_groups=len(set(self._groups)),
            seed=bootstrap.seed,
            model="",
            prompt=task.prompt.name,
            prompt_fingerprint=task.prompt.fingerprint,
            checkpoint_sha256=None,
            data_fingerprint=data_fingerprint,
            rejects=dict(split.rejects),
            provenance={**provenance, "rejects": dict(split.rejects), **_signatures(split)},
        )

    def records(self, found: Sequence[Performance]) -> Iterator[TaskRecord]:
        """Yield the figures of every model, then its changes against the first one."""
        for number, performance in enumerate(found):
            yield from self._figures(performance)
            if number:
                yield from self._changes(performance, found[0])

    def simple_records(self, num_random_draws: int) -> Iterator[TaskRecord]:
        """Yield the figures of the majority label and of chance, where there are labels."""
        split = self._split
        task, items = split.task, split.items
        measures = majority_measures(task, items, split.training_labels)
        answer = {"by": "the most frequent label of the training split"}
        yield from self._figures(Performance(MAJORITY, measures, answer, None))
        tail = (1 - self._bootstrap.level) / 2
        drawn = random_values(task, items, num_random_draws, self._bootstrap.seed)
        for name, values in drawn.items():
            low, high = np.quantile(values, [tail, 1 - tail])
            yield replace(
                self._shared,
                model=RANDOM,
                metric=name,
                value=float(np.mean(values)),
                low=float(low),
                high=float(high),
                method=f"quantiles of {num_random_draws} draws",
                answer={"by": "uniform choice"},
            )

    def _figures(self, performance: Performance) -> Iterator[TaskRecord]:
        for measure in performance.measures:
            interval, method = interval_of(measure, self._groups, self._bootstrap)
            yield replace(
                self._of(performance),
                metric=measure.name,
                value=interval.value,
                low=interval.low,
                high=interval.high,
                method=method,
                higher_is_better=measure.higher_is_better,
                minimum_detectable_difference=self._detectable(measure),
            )

    def _changes(self, performance: Performance, base: Performance) -> Iterator[TaskRecord]:
        before = {measure.name: measure for measure in base.measures}
        for measure in performance.measures:
            other = before.get(measure.name)
            if other is None or other.columns.shape != measure.columns.shape:
                continue  # such as calibration, if only one of them gives probabilities
            difference = paired_difference(measure, other, self._groups, self._bootstrap)
            yield replace(
                self._of(performance),
                metric=f"{measure.name}{CHANGE}",
                value=difference.value,
                low=difference.low,
                high=difference.high,
                method=f"paired {difference.method}; p value: {difference.test}",
                higher_is_better=measure.higher_is_better,
                against=base.model,
                p_value=difference.p_value,
                mcnemar=self._mcnemar(measure, other),
            )

    def _of(self, performance: Performance) -> TaskRecord:
        return replace(
            self._shared,
            model=performance.model,
            answer=performance.answer,
            checkpoint_sha256=performance.checkpoint_sha256,
            filtered=None if performance.filtered is None else performance.filtered.status,
            filter_reasons=[]
            if performance.filtered is None
            else list(performance.filtered.reasons),
        )

    def _is_independent(self, measure: Measure) -> bool:
        """Whether a figure counts hits among items that are groups of their own."""
        return measure.is_proportion and self._shared.n_groups == self._shared.n

    def _detectable(self, measure: Measure) -> float | None:
        if not self._is_independent(measure):
            return None
        level = self._bootstrap.level
        return minimum_detectable_difference(self._shared.n, measure.value, POWER, level)

    def _mcnemar(self, a: Measure, b: Measure) -> dict[str, float] | None:
        if not self._is_independent(a):
            return None
        return asdict(mcnemar(a.columns[:, 0] > 0, b.columns[:, 0] > 0))


def _signatures(split: TaskSplit) -> dict[str, Any]:
    """Return what identifies the computation of figures of texts, as sacrebleu's signature."""
    task = split.task
    if not isinstance(task, WritingTask):
        return {}
    return {"signatures": dict(task.signatures(split.items))}


# -------------------------------------------------------------------------------------------------
# Models on tasks: answers on all ranks, then predictions, figures and records on rank zero.
#
# Which items are together in a batch depends on the items alone, so any number of ranks and of
# restarts gives the same answers.
# -------------------------------------------------------------------------------------------------

VAL = "val"


@dataclass(frozen=True)
class Session:
    """A model that answers the items of one split of a task.

    Attributes:
        split: The items.
        model: Who answers.
        options: How.
        log: Where the answers are kept.
        head: What chooses the labels, if a head does.
    """

    split: TaskSplit
    model: AnswerModel
    options: AnswerOptions
    log: AnswerLog
    head: LabelHead | None = None

    @classmethod
    def of(
        cls,
        split: TaskSplit,
        model: AnswerModel,
        options: AnswerOptions,
        folder: Path,
        head: LabelHead | None = None,
    ) -> "Session":
        """Return the session whose answers are in a folder."""
        task = split.task
        suffix = "" if split.split == TEST else f".{split.split}"
        header = header_of(split, model, options, head)
        name = f"{task.name}.{model.label}{suffix}"
        log = AnswerLog(folder, name, header, is_restricted(task))
        return cls(split, model, options, log, head)

    @property
    def keys(self) -> list[str]:
        """What stands for each item in the files."""
        task = self.split.task
        restricted = is_restricted(task)
        return [key_of(task.name, i.id, is_restricted=restricted) for i in self.split.items]

    def answer(self, progress: AnswerProgress) -> None:
        """Ask for what this rank has to answer and nobody has answered yet."""
        questions = Questions(self.split.task, self.model, self.options, self.head)
        keys = {i.id: key for i, key in zip(self.split.items, self.keys, strict=True)}
        mine = questions.batches(self.split.items)[rank() :: world_size()]
        done = self.log.read().keys()
        num_done = sum(keys[item.id] in done for batch in mine for item in batch)
        line = progress.line(self.log.name, sum(map(len, mine)), num_done)
        with self.log.appending(rank()) as appender:
            for batch in mine:
                missing = {keys[item.id] for item in batch} - done
                if missing:  # a whole batch is asked again, so that its answers stay the same
                    appender.add(a for a in questions.ask(batch) if a.key in missing)
                    line.advance(len(missing))


def header_of(
    split: TaskSplit, model: AnswerModel, options: AnswerOptions, head: LabelHead | None = None
) -> dict[str, Any]:
    """Return the fingerprints of all that decides what a model answers.

    Files of other splits are not among it: they decide through the head that was fitted on them,
    which has its own fingerprint, or after the answers, as thresholds do.
    """
    task, answer = split.task, split.task.answer
    written = isinstance(answer, WriteText) or options.label_by == "generation"
    settings: dict[str, Any] = {"max_prompt_tokens": options.max_prompt_tokens}
    if isinstance(answer, ChooseLabel):
        settings |= {"labels": list(answer.labels), "label_by": options.label_by}
    if isinstance(answer, WriteText):
        settings |= asdict(answer)
    elif written and isinstance(answer, ChooseLabel):
        settings["max_label_tokens"] = options.max_label_tokens
    elif head is not None:
        settings |= asdict(head.options)
    else:
        settings["prior_correction"] = options.prior_correction
    return {
        "task": task.name,
        "protocol": task.protocol,
        "split": split.split,
        "model": model.label,
        "checkpoint_sha256": model.checkpoint_sha256,
        "tokenizer": model.tokenizer.fingerprint,
        "prompt": task.prompt.name,
        "prompt_fingerprint": task.prompt.fingerprint,
        "items": items_digest(split.items, is_restricted=is_restricted(task)),
        "options": settings,
        **({} if head is None else {"head_sha256": head.sha256}),
    }


def items_digest(items: Sequence[Item], *, is_restricted: bool) -> str:
    """Return the sha256 of what a model is asked about items, in their order.

    Of restricted items it is the sha256 of everything, since scores are kept in place of answers.
    """
    digest = sha256()
    for item in items:
        asked: dict[str, Any] = asdict(item)
        if not is_restricted:
            names = ["id", "parts", "options", "option_parts"]
            # Scored after each option; else it is compared with the answer only.
            names += ["target"] if item.option_parts else []
            asked = {name: asked[name] for name in names}
        digest.update(f"{json.dumps(asked, sort_keys=True)}\n".encode())
    return digest.hexdigest()


class TaskEvaluation:
    """Models, tasks and how they meet.

    Args:
        models: The first one is compared with the others.
        tasks: Their names differ.
        options: How models are asked.
        folder: Of the predictions.
        lineages: How the models came about, by label; of others nothing is known.
    """

    def __init__(
        self,
        models: Sequence[AnswerModel],
        tasks: Sequence[Task],
        options: AnswerOptions,
        folder: Path,
        lineages: Mapping[str, Lineage] | None = None,
    ) -> None:
        self._lineages = lineages or {}
        self._models, self._options, self._folder = models, options, folder
        self._heads = Heads(models, tasks, options)
        self._splits = [TaskSplit(task, options.split, options.max_items) for task in tasks]
        self._fitting = {
            task.name: TaskSplit(task, VAL)
            for task in tasks
            if options.fits_thresholds and isinstance(task.answer, ChooseLabel)
        }

    def answer(self) -> None:
        """Let every model answer what this rank has to; what has been answered is not repeated.

        Raises:
            DataError: A file of a task is missing or damaged; found before anything is asked.
        """
        for split in (*self._splits, *self._fitting.values()):
            _ = split.items, split.files, split.training_labels
        with AnswerProgress() as progress:
            for split in (*self._splits, *self._fitting.values()):
                for model in self._models:
                    self._heads.of(split.task, model, progress)
                    self._session(split, model).answer(progress)

    def records(self, bootstrap: Bootstrap, provenance: Mapping[str, Any]) -> Iterator[TaskRecord]:
        """Yield the records of all tasks, once every rank has answered.

        Raises:
            DataError: An answer is missing.
        """
        for split in self._splits:
            fingerprint = data_fingerprint(split.files)
            figures = TaskFigures(split, fingerprint, bootstrap, provenance)
            found = [self._performance(split, model) for model in self._models]
            yield from figures.records(found)
            yield from figures.simple_records(self._options.num_random_draws)

    def _session(self, split: TaskSplit, model: AnswerModel) -> Session:
        head = self._heads.of(split.task, model)
        return Session.of(split, model, self._options, self._folder, head)

    def _performance(self, split: TaskSplit, model: AnswerModel) -> Performance:
        """Decide, measure and publish what a model answered."""
        session = self._session(split, model)
        raws = session.log.merge(session.keys)
        decision = self._decision(split.task, model)
        task, items = split.task, split.items
        predictions = [predict(task, i, raw, decision) for i, raw in zip(items, raws, strict=True)]
        measures = measures_of(task, items, raws, predictions)
        restricted = is_restricted(task)
        session.log.publish(
            published(task, item, raw, prediction, row, restricted=restricted)
            for item, raw, prediction, row in zip(
                items, raws, predictions, rows_of(measures), strict=True
            )
        )
        answer = described(task, self._options, raws, session.head) | decision.described()
        filtered = self._filter_status(split, model)
        return Performance(model.label, measures, answer, model.checkpoint_sha256, filtered)

    def _filter_status(self, split: TaskSplit, model: AnswerModel) -> FilterStatus:
        """Say whether the items of a split were kept out of the training data of a model."""
        lineage = self._lineages.get(model.label)
        if lineage is None:
            return FilterStatus(UNKNOWN, ("the training data of this model are not known",))
        return lineage.filter_status(split.tested)

    def _decision(self, task: Task, model: AnswerModel) -> Decision:
        fitting = self._fitting.get(task.name)
        if fitting is None:
            return Decision()
        session = self._session(fitting, model)
        raws = session.log.merge(session.keys)
        session.log.publish(raw.plain() for raw in raws)
        return fit_decision(task, fitting.items, raws)


def measures_of(
    task: Task, items: Sequence[Item], raws: Sequence[RawAnswer], predictions: Sequence[Prediction]
) -> Sequence[Measure]:
    """Return the figures, of restricted texts from what was kept of each item."""
    if not any(raw.columns for raw in raws):
        return task.measures(items, predictions)
    nothing = [Prediction(id=item.id, text="", status=EMPTY) for item in items]
    return [
        replace(measure, columns=np.stack([_row(measure, raw) for raw in raws]))
        for measure in task.measures(items, nothing)
    ]


def _row(measure: Measure, raw: RawAnswer) -> Any:
    """Return what an item adds; a measure that it does not take part in gets nothing."""
    width = measure.columns.shape[1]
    return np.array(raw.columns.get(measure.name, [0.0] * width), dtype=np.float64)


def rows_of(measures: Sequence[Measure]) -> Iterator[dict[str, list[float]]]:
    """Yield what each item adds to each measure."""
    for row in zip(*(measure.columns.tolist() for measure in measures), strict=True):
        yield {measure.name: added for measure, added in zip(measures, row, strict=True)}


def published(
    task: Task,
    item: Item,
    raw: RawAnswer,
    prediction: Prediction,
    columns: Mapping[str, Sequence[float]],
    *,
    restricted: bool,
) -> dict[str, Any]:
    """Return the line of an item in the merged file."""
    unit = key_of(task.name, item.unit, is_restricted=restricted)
    line = raw.plain() | {"unit": unit, "columns": columns, "status": prediction.status}
    if restricted:
        return line
    chosen = isinstance(task.answer, ChooseLabel | ChooseOption) and bool(prediction.scores)
    answer = {"chosen": prediction.text, "scores": prediction.scores} if chosen else {}
    return line | answer | {"label": prediction.label, "target": item.label or item.target}


def described(
    task: Task, options: AnswerOptions, raws: Sequence[RawAnswer], head: LabelHead | None = None
) -> dict[str, Any]:
    """Return how the answers came about, and how many prompts were cut."""
    answer = task.answer
    cut = {"num_cut_prompts": sum(raw.num_cut_tokens > 0 for raw in raws)}
    if isinstance(answer, WriteText):
        return {"by": "generation", **cut}
    if head is not None:
        return {"by": "head", **cut, "head": head.described()}
    by = options.label_by if isinstance(answer, ChooseLabel) else "likelihood"
    return {"by": by, "prior_correction": options.prior_correction, **cut}


def data_fingerprint(files: Mapping[str, str]) -> str:
    """Return one sha256 for all files of a task."""
    return sha256(repr(sorted(files.items())).encode()).hexdigest()
