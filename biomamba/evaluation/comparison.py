"""Compare models on the same items, each against a reference, and record the comparison."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.config.run_settings import Recipe, recipe_of
from biomamba.evaluation.records import plain_value, record_line
from biomamba.evaluation.stored_run import PER_TOKEN, Scored, StoredModel, bits_per_byte
from biomamba.metrics.measure import Bootstrap, Interval, Measure, group_columns, interval_of
from biomamba.metrics.significance import (
    Difference,
    detectable_by,
    difference_over_seeds,
    holm,
    interval_over_seeds,
    mcnemar,
    minimum_detectable_paired_difference,
    over_seeds,
    paired_difference,
)
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_number
from biomamba.training.lineage import worst_status

# -------------------------------------------------------------------------------------------------
# One row of a comparison of models, kept as JSON lines and as a table of values.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ComparisonRecord:
    """A figure of one model (or of one recipe over its seeds) and how it differs from another.

    Attributes:
        subject: Source or task.
        n: Items.
        n_groups: Groups of items that are not independent, as the notes of one patient.
        seed_values: The figure of each seed; `value` is their mean, `deviation` their sample
            standard deviation, `seeds_low` and `seeds_high` the interval of the mean about other
            seeds on the same items (nan for one).
        low, high: Interval of `level`, made by `method`.
        against: The model that it is compared with; None for that model itself, as are all fields
            below.
        difference: `value` minus that of `against`.
        p_value: Of `test`, two-sided; `p_holm` is corrected for all tests of the comparison.
        model_only, against_only: Items that only the one is right on, where the test is McNemar's.
        minimum_detectable_difference: The smallest true difference that these items show with
            probability `power`.
        checkpoints: sha256 of the weights of each seed.
        filtered: Whether the items of a task were kept out of the training data (see TaskRecord);
            of several seeds the worst. None for documents of a source.
    """

    subject: str
    metric: str
    higher_is_better: bool | None
    protocol: Mapping[str, Any]
    n: int
    n_groups: int
    model: str
    seed_values: Sequence[float]
    value: float
    deviation: float
    seeds_low: float
    seeds_high: float
    low: float
    high: float
    level: float
    method: str
    checkpoints: Sequence[str]
    against: str | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    test: str | None = None
    model_only: int | None = None
    against_only: int | None = None
    minimum_detectable_difference: float | None = None
    power: float | None = None
    filtered: str | None = None


@dataclass(frozen=True)
class Comparison:
    """All rows, and what was left out and why."""

    records: Sequence[ComparisonRecord]
    notes: Sequence[str] = field(default_factory=list)


def format_comparison(records: Iterable[ComparisonRecord]) -> str:
    """Return the records as JSON lines; what is not a number becomes null."""
    return "".join(record_line(asdict(record)) for record in records)


def comparison_csv(records: Iterable[ComparisonRecord]) -> str:
    """Return the records as CSV; lists and mappings are JSON, what is missing is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([found.name for found in fields(ComparisonRecord)])
    for record in records:
        writer.writerow([_cell(plain_value(value)) for value in asdict(record).values()])
    return text.getvalue()


def _cell(value: Any) -> Any:
    is_plain = not isinstance(value, list | dict)
    return value if is_plain else json.dumps(value, sort_keys=True, allow_nan=False)


# -------------------------------------------------------------------------------------------------
# Models beside each other on the same items, each against one of them.
#
# What is not the same question is refused: other items, another split or protocol, other prompts.
# Figures per token are compared between models of one tokenizer only.
# -------------------------------------------------------------------------------------------------


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


# -------------------------------------------------------------------------------------------------
# How the bits per byte of single documents differ between models.
# -------------------------------------------------------------------------------------------------


def document_changes(models: Models, reference: str) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return, for every source, how bits per byte of each document differ from the reference.

    Of several seeds the mean is taken.
    """
    every = [trained.scored for seeds in models.values() for trained in seeds]
    changes = {}
    for subject, scored in every[0].items():
        is_source = any(measure.name == "bits_per_byte" for measure in scored.measures)
        if is_source and all(subject in other for other in every):
            found = aligned(subject, models)
            means = {name: _mean(seeds) for name, seeds in found.items()}
            changes[subject] = {
                name: values - means[reference]
                for name, values in means.items()
                if name != reference
            }
    return changes


def _mean(seeds: Sequence[Any]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean([bits_per_byte(scored) for scored in seeds], axis=0)
    return mean


# -------------------------------------------------------------------------------------------------
# From the models of several evaluations to models with names and seeds, ready to be compared.
# -------------------------------------------------------------------------------------------------

Evaluations = Mapping[Path, Sequence[StoredModel]]
_MAIN = ("adapted", "model")


@dataclass
class _Found:
    """A checkpoint, and where it was found first."""

    folder: Path
    model: StoredModel
    recipe: Recipe | None


def gather(evaluations: Evaluations) -> Models:
    """Return every checkpoint of the evaluations under a name.

    What was scored of one checkpoint in several evaluations is put together. Checkpoints of one
    recipe become its seeds if all of their seeds differ.

    Raises:
        DataError: A checkpoint was scored twice on something, with different figures.
    """
    found: dict[str, _Found] = {}
    for folder, models in evaluations.items():
        for model in models:
            if model.checkpoint in found:
                _merge(found[model.checkpoint], folder, model)
            else:
                recipe = None if model.path is None else recipe_of(Path(model.path))
                found[model.checkpoint] = _Found(folder, model, recipe)
    groups = _by_recipe(list(found.values()))
    labels = [group[0].model.label for group in groups]
    named: dict[str, list[Trained]] = {}
    for group in groups:
        name = _name(group, labels, named)
        named[name] = [Trained(each.model.checkpoint, each.model.scored) for each in group]
    return named


def gather_named(names: Mapping[str, Sequence[Path]], evaluations: Evaluations) -> Models:
    """Return the main model of each evaluation as a seed of the name that it is listed under.

    Raises:
        DataError: A name has a checkpoint twice.
    """
    models: dict[str, list[Trained]] = {}
    for name, folders in names.items():
        mains = [_main(evaluations[folder]) for folder in folders]
        models[name] = [Trained(main.checkpoint, main.scored) for main in mains]
        if len({main.checkpoint for main in mains}) < len(mains):
            raise DataError(f"runs.{name}: two of its evaluations are of the same checkpoint")
    return models


def _main(models: Sequence[StoredModel]) -> StoredModel:
    """Return the model that an evaluation is about."""
    by_label = {model.label: model for model in models}
    return next((by_label[label] for label in _MAIN if label in by_label), models[0])


def _merge(known: _Found, folder: Path, model: StoredModel) -> None:
    for subject, scored in model.scored.items():
        earlier = known.model.scored.setdefault(subject, scored)
        if not _agree(earlier, scored):
            raise DataError(
                f"{subject} of one checkpoint ({model.checkpoint[:12]}) was scored in different "
                f"ways in {known.folder} and {folder}: name one of them only"
            )
        status = worst_status([earlier.filtered, scored.filtered])
        known.model.scored[subject] = replace(earlier, filtered=status)


def _agree(one: Scored, other: Scored) -> bool:
    if one.protocol != other.protocol or sorted(one.items) != sorted(other.items):
        return False
    values = {measure.name: measure.value for measure in other.measures}
    return all(abs(m.value - values.get(m.name, m.value)) < 1e-6 for m in one.measures)


def _by_recipe(found: Sequence[_Found]) -> list[list[_Found]]:
    groups: dict[str, list[_Found]] = {}
    for each in found:
        key = each.model.checkpoint if each.recipe is None else each.recipe.fingerprint
        groups.setdefault(key, []).append(each)
    single = []
    for group in groups.values():
        seeds = {each.recipe.seed for each in group if each.recipe is not None}
        is_one = len(group) == 1 or len(seeds) == len(group)
        single += [group] if is_one else [[each] for each in group]
    return single


def _name(group: Sequence[_Found], labels: Sequence[str], taken: Mapping[str, object]) -> str:
    """Return a name that is not taken.

    Seeds have that of the folder of their runs; else the label, if no other model has it, or that
    of the evaluation.
    """
    first = group[0]
    label, folder = first.model.label, first.folder.name
    names = [folder if label in _MAIN else f"{folder}/{label}", f"{first.folder}/{label}"]
    if len(group) > 1 and first.recipe is not None:
        names.insert(0, first.recipe.run.parent.name)
    elif labels.count(label) == 1:
        names.insert(0, label)
    return next(name for name in names if name not in taken)
