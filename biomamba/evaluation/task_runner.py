"""Models on tasks: answers on all ranks, then predictions, figures and records on rank zero.

Which items stand together in a batch depends on the items alone, so any number of ranks and of
restarts gives the same answers.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from biomamba.evaluation.answer_log import AnswerLog
from biomamba.evaluation.answer_model import AnswerModel
from biomamba.evaluation.answer_options import AnswerOptions
from biomamba.evaluation.answer_progress import AnswerProgress
from biomamba.evaluation.asking import Questions, is_restricted
from biomamba.evaluation.decisions import Decision, fit_decision, predict
from biomamba.evaluation.head_fitting import Heads
from biomamba.evaluation.label_head import LabelHead
from biomamba.evaluation.raw_answer import RawAnswer, key_of
from biomamba.evaluation.task_figures import Performance, TaskFigures
from biomamba.evaluation.task_records import TaskRecord
from biomamba.evaluation.task_split import TEST, TaskSplit
from biomamba.metrics.interval import Bootstrap
from biomamba.metrics.measure import Measure
from biomamba.runtime.ranks import rank, world_size
from biomamba.tasks.item import Item
from biomamba.tasks.prediction import EMPTY, Prediction
from biomamba.tasks.task import ChooseLabel, ChooseOption, Task, WriteText
from biomamba.training.lineage import UNKNOWN, FilterStatus, Lineage

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
        """Return the session whose answers lie in a folder."""
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
            # Scored behind each option; else it is compared with the answer only.
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
