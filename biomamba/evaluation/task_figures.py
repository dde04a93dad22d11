"""From the predictions of models on a task to records: figures, intervals, comparisons."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from biomamba.evaluation.simple_answers import MAJORITY, RANDOM, majority_measures, random_values
from biomamba.evaluation.task_records import CHANGE, TaskRecord
from biomamba.evaluation.task_split import TaskSplit
from biomamba.metrics.grouped import interval_of
from biomamba.metrics.interval import Bootstrap
from biomamba.metrics.measure import Measure
from biomamba.metrics.paired import mcnemar, paired_difference
from biomamba.metrics.power import minimum_detectable_difference
from biomamba.tasks.writing import WritingTask
from biomamba.training.lineage import FilterStatus

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
