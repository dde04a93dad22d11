"""Models beside each other on the same items, each against one of them.

What is not the same question is refused: other items, another split or protocol, other prompts.
Figures per token are compared between models of one tokenizer only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from biomamba.evaluation.comparison_records import Comparison, ComparisonRecord
from biomamba.evaluation.scored import PER_TOKEN, Scored
from biomamba.metrics.grouped import group_columns, interval_of
from biomamba.metrics.interval import Bootstrap, Interval
from biomamba.metrics.measure import Measure
from biomamba.metrics.multiplicity import holm
from biomamba.metrics.paired import Difference, mcnemar, paired_difference
from biomamba.metrics.power import detectable_by, minimum_detectable_paired_difference
from biomamba.metrics.seeds import (
    difference_over_seeds,
    interval_over_seeds,
    over_seeds,
)
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_number
from biomamba.training.lineage import worst_status


@dataclass(frozen=True)
class ComparisonSettings:
    """How models are compared.

    reference is the model that the others are compared with (None: the first); metrics are the
    figures to compare (None: the main one of each source and task; [all]: all); power is that of
    the smallest detectable difference.
    """

    reference: str | None = None
    metrics: list[str] | None = None
    power: float = 0.8
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        check_number("power", self.power, at_least=0.5, below=1)


@dataclass(frozen=True)
class Trained:
    """One checkpoint: the sha256 of its weights, and its scores by source or task."""

    checkpoint: str
    scored: Mapping[str, Scored]


ALL = "all"
Models = Mapping[str, Sequence[Trained]]  # the seeds of each model


def compare(models: Models, settings: ComparisonSettings) -> Comparison:
    """Compare each model with the reference on everything that all of them were scored on.

    Raises:
        ConfigError: The reference or a metric is not known.
        DataError: Nothing was scored for all models, or figures that must not be compared.
    """
    reference = settings.reference or next(iter(models))
    if reference not in models:
        raise ConfigError(f"reference is {reference!r}; the models are {', '.join(models)}")
    if settings.metrics not in (None, [ALL]):
        _check_found(settings.metrics or [], models)
    notes: list[str] = []
    records: list[ComparisonRecord] = []
    for subject in _shared_subjects(models, notes):
        panel = _Panel(subject, models, reference, settings)
        for metric in panel.metrics(notes):
            records += panel.records(metric)
    notes += _seed_notes(models)
    return Comparison(_with_holm(records), notes)


def _seed_notes(models: Models) -> Iterator[str]:
    """Tell of models of one seed beside others of several."""
    single = [name for name, seeds in models.items() if len(seeds) == 1]
    if single and len(single) < len(models):
        yield (
            f"one seed only of {', '.join(single)}: intervals know nothing of its other seeds, and "
            "differences to a recipe of several take them to scatter as those"
        )


def aligned(subject: str, models: Models) -> dict[str, list[Scored]]:
    """Return the scores of every seed of every model on a subject, all in one order of items.

    Raises:
        DataError: Items or protocols are not the same.
    """
    first_name = next(iter(models))
    first = models[first_name][0].scored[subject]
    found: dict[str, list[Scored]] = {}
    for name, seeds in models.items():
        found[name] = []
        for trained in seeds:
            scored = trained.scored[subject]
            try:
                _check_protocol(first, scored)
                found[name].append(scored.in_order_of(first))
            except DataError as error:
                raise DataError(f"{first_name} and {name} must not be compared: {error}") from error
    return found


def _check_protocol(one: Scored, other: Scored) -> None:
    for key in dict.fromkeys([*one.protocol, *other.protocol]):
        here, there = one.protocol.get(key), other.protocol.get(key)
        if here != there:
            raise DataError(
                f"{one.subject}: not the same protocol: {key} is {here!r} and {there!r}; evaluate "
                f"both with the same settings"
            )


def _shared_subjects(models: Models, notes: list[str]) -> Iterator[str]:
    every = [trained.scored for seeds in models.values() for trained in seeds]
    subjects = dict.fromkeys(subject for scored in every for subject in scored)
    shared = [subject for subject in subjects if all(subject in scored for scored in every)]
    if not shared:
        raise DataError(
            "no source or task was evaluated for all models; "
            + "; ".join(f"{name}: {', '.join(seeds[0].scored)}" for name, seeds in models.items())
        )
    for subject in subjects:
        lacking = [
            name
            for name, seeds in models.items()
            if any(subject not in trained.scored for trained in seeds)
        ]
        if lacking:
            notes.append(f"{subject} is left out: not evaluated for {', '.join(lacking)}")
    yield from shared


def _check_found(metrics: Sequence[str], models: Models) -> None:
    every = [
        scored for seeds in models.values() for each in seeds for scored in each.scored.values()
    ]
    known = dict.fromkeys(found.name for scored in every for found in scored.measures)
    odd = [metric for metric in metrics if metric not in known]
    if odd:
        raise ConfigError(f"metrics names {', '.join(odd)}; measured were {', '.join(known)}")


class _Panel:
    """All models on one subject."""

    def __init__(
        self, subject: str, models: Models, reference: str, settings: ComparisonSettings
    ) -> None:
        self._subject = subject
        self._models = models
        self._reference = reference
        self._settings = settings
        self._scored = aligned(subject, models)
        self._first = next(iter(self._scored.values()))[0]

    def metrics(self, notes: list[str]) -> list[str]:
        """Return the figures that may be compared."""
        wanted = self._settings.metrics
        every = [scored for seeds in self._scored.values() for scored in seeds]
        one_tokenizer = len({scored.tokenizer for scored in every}) == 1
        found = []
        for metric in [measure.name for measure in self._first.measures]:
            if wanted not in (None, [ALL]) and metric not in (wanted or []):
                continue
            if metric in PER_TOKEN and not one_tokenizer:
                self._refuse_per_token(metric, notes)
            elif all(metric in [m.name for m in scored.measures] for scored in every):
                found.append(metric)
            else:
                notes.append(f"{metric} of {self._subject} is left out: not measured for all")
        return found[:1] if wanted is None else found

    def _refuse_per_token(self, metric: str, notes: list[str]) -> None:
        reason = (
            f"{metric} of {self._subject} is a figure per token, and the models have different "
            f"tokenizers"
        )
        if self._settings.metrics not in (None, [ALL]):
            raise DataError(f"{reason}; compare bits_per_byte instead")
        notes.append(f"{reason}: left out, bits_per_byte compares them")

    def records(self, metric: str) -> Iterator[ComparisonRecord]:
        """Yield one record per model."""
        measures = {
            name: [scored.measure(metric) for scored in seeds]
            for name, seeds in self._scored.items()
        }
        for name in measures:
            record = self._alone(name, metric, measures[name])
            if name != self._reference:
                record = self._against(record, measures[name], measures[self._reference])
            yield record

    def _alone(self, name: str, metric: str, seeds: Sequence[Measure]) -> ComparisonRecord:
        bootstrap, units = self._settings.bootstrap, self._first.units
        summary = over_seeds([measure.value for measure in seeds], bootstrap.level)
        interval, method = _interval(seeds, units, bootstrap)
        return ComparisonRecord(
            subject=self._subject,
            metric=metric,
            higher_is_better=seeds[0].higher_is_better,
            protocol=self._first.protocol,
            n=len(units),
            n_groups=len(set(units)),
            model=name,
            seed_values=[measure.value for measure in seeds],
            value=interval.value,
            deviation=summary.deviation,
            seeds_low=summary.low,
            seeds_high=summary.high,
            low=interval.low,
            high=interval.high,
            level=bootstrap.level,
            method=method,
            checkpoints=[trained.checkpoint for trained in self._models[name]],
            filtered=worst_status(scored.filtered for scored in self._scored[name]),
        )

    def _against(
        self, record: ComparisonRecord, seeds: Sequence[Measure], reference: Sequence[Measure]
    ) -> ComparisonRecord:
        settings, units = self._settings, self._first.units
        is_single = len(seeds) == len(reference) == 1
        if is_single:
            found = paired_difference(seeds[0], reference[0], units, settings.bootstrap)
        else:
            found = difference_over_seeds(seeds, reference, units, settings.bootstrap)
        record = replace(
            record,
            against=self._reference,
            difference=found.value,
            difference_low=found.low,
            difference_high=found.high,
            p_value=found.p_value,
            test=found.test,
            power=settings.power,
            minimum_detectable_difference=_detectable(found, settings),
        )
        if is_single and group_columns(seeds[0], units).is_proportion:
            record = _with_counts(record, seeds[0], reference[0])
        return record


def _interval(
    seeds: Sequence[Measure], units: Sequence[str], bootstrap: Bootstrap
) -> tuple[Interval, str]:
    if len(seeds) == 1:
        return interval_of(seeds[0], units, bootstrap)
    return interval_over_seeds(seeds, units, bootstrap)


def _detectable(found: Difference, settings: ComparisonSettings) -> float:
    return detectable_by(
        found.standard_error, settings.power, settings.bootstrap.level, freedom=found.freedom
    )


def _with_counts(record: ComparisonRecord, a: Measure, b: Measure) -> ComparisonRecord:
    """Add what McNemar's test saw, and the difference that it could have seen."""
    assert record.power is not None
    counts = mcnemar(a.columns[:, 0] > 0, b.columns[:, 0] > 0)
    discordant = (counts.a_only + counts.b_only) / record.n
    return replace(
        record,
        model_only=counts.a_only,
        against_only=counts.b_only,
        minimum_detectable_difference=minimum_detectable_paired_difference(
            record.n, discordant, record.power, record.level
        ),
    )


def _with_holm(records: Sequence[ComparisonRecord]) -> list[ComparisonRecord]:
    adjusted = iter(holm([r.p_value for r in records if r.p_value is not None]))
    return [r if r.p_value is None else replace(r, p_holm=next(adjusted)) for r in records]
