"""Evaluations joined by checkpoint and linked to the training runs that wrote the weights."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from biomamba.evaluation.comparison import Models, Trained, aligned, gather
from biomamba.evaluation.stored_run import StoredModel
from biomamba.model.formats.tensors import find_weights
from biomamba.reporting.groups import RunGroup, has_seed_folder
from biomamba.reporting.inputs import RESULTS, Evaluation, TrainingRun
from biomamba.runtime.errors import CheckpointError, DataError

# -------------------------------------------------------------------------------------------------
# Which training run wrote the weights that an evaluation is about.
# -------------------------------------------------------------------------------------------------

_MODELS = ("model", "model_best", "model_ema")


@dataclass
class RunLinks:
    """The run and the model folder of each checkpoint, by its sha256, and what is odd about it."""

    runs: dict[str, TrainingRun] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def link_runs(models: Iterable[StoredModel], runs: Sequence[TrainingRun]) -> RunLinks:
    """Find the run of every checkpoint: by where it was, or else by its weights.

    The path of an evaluation may be from another folder or machine: its end decides then. Weights
    that are there must have the sha256 that was evaluated; if none are there, the path is believed.
    """
    links, weights = RunLinks(), _Weights()
    for model in models:
        if model.checkpoint in links.runs or not model.path:
            continue
        near = [run for run in runs if is_end(Path(model.path).parent, run.folder)]
        exact = [run for run in near if Path(model.path).resolve().parent == run.folder.resolve()]
        name = Path(model.path).name
        for run in exact or near:
            found = weights.sha256(run.folder / name)
            if found in (None, model.checkpoint) and (found or len(exact or near) == 1):
                _link(links, model, run, run.folder / name)
        if model.checkpoint not in links.runs:
            _by_weights(links, weights, model, runs)
        if model.checkpoint not in links.runs and len(exact) == 1:
            links.notes.append(
                f"The weights in {exact[0].folder / name} are not those that were evaluated: they "
                "were trained again since; evaluate them again."
            )
    return links


def _by_weights(
    links: RunLinks, weights: "_Weights", model: StoredModel, runs: Sequence[TrainingRun]
) -> None:
    for run in runs:
        for name in _MODELS:
            if weights.sha256(run.folder / name) == model.checkpoint:
                _link(links, model, run, run.folder / name)
                return


def _link(links: RunLinks, model: StoredModel, run: TrainingRun, folder: Path) -> None:
    links.runs[model.checkpoint] = run
    links.folders[model.checkpoint] = folder


def is_end(told: Path, folder: Path) -> bool:
    """Whether a path, as an evaluation tells it, may be that of a folder."""
    parts = [part for part in told.parts if part not in ("/", ".", "..")]
    here = folder.absolute().parts
    if told.is_absolute():  # of another machine: what both end with, run and name at least
        return len(parts) > 1 and list(here[-2:]) == parts[-2:]
    return bool(parts) and list(here[-len(parts) :]) == parts


class _Weights:
    """The sha256 of weights, each read once."""

    def __init__(self) -> None:
        self._known: dict[Path, str | None] = {}

    def sha256(self, folder: Path) -> str | None:
        """Return it; None if there are no weights."""
        if folder not in self._known:
            self._known[folder] = self._read(folder)
        return self._known[folder]

    def _read(self, folder: Path) -> str | None:
        try:
            found = find_weights(folder) if folder.is_dir() else None
            return None if found is None else found.digest()
        except (CheckpointError, OSError):
            return None


def relinked(model: StoredModel, links: RunLinks) -> StoredModel:
    """Return a model with the path of its weights where they are now."""
    folder: Mapping[str, Path] = links.folders
    path = str(folder[model.checkpoint]) if model.checkpoint in folder else model.path
    return StoredModel(model.label, model.checkpoint, path, dict(model.scored))


# -------------------------------------------------------------------------------------------------
# The models of all evaluations, put together by checkpoint, ready for a report.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReportScores:
    """What can be compared.

    Attributes:
        models: Every model on every source that it was scored on; the one that others started with
            first. The seeds of a recipe are one model.
        panels: Models that were scored on the same sources in the same way, with these only.
        notes: What cannot be compared, and why.
        paths: Where the weights are, by sha256.
        files: The files that hold the scores.
        groups: The training runs of a model, where they are known.
        origins: Name of the model that the runs of a model started with, where that was scored.
        trained: The training runs of a checkpoint by its sha256, of those asked tasks too.
    """

    models: Models = field(default_factory=dict)
    panels: Sequence[Models] = ()
    notes: Sequence[str] = ()
    paths: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[str] = ()
    groups: Mapping[str, RunGroup] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    trained: Mapping[str, RunGroup] = field(default_factory=dict)

    def of_group(self, group: RunGroup) -> str | None:
        """Return the name of the model that the runs of a group wrote."""
        return next((name for name, found in self.groups.items() if found is group), None)


def report_scores(
    evaluations: Sequence[Evaluation], groups: Sequence[RunGroup] = ()
) -> ReportScores:
    """Put the models of evaluations together, and tell which runs they are of.

    Raises:
        DataError: A checkpoint was scored twice on a source with different figures.
    """
    scored = [found for found in evaluations if found.models]
    every = [model for found in scored for model in found.models]
    links = link_runs([*every, *_asked(evaluations)], [run for g in groups for run in g.runs])
    of_run = {run.folder: group for group in groups for run in group.runs}
    trained = {sha256: of_run[run.folder] for sha256, run in links.runs.items()}
    if not scored:
        return ReportScores(trained=trained, notes=links.notes)
    found = {each.folder: [relinked(m, links) for m in each.models] for each in scored}
    paths = {m.checkpoint: m.path for models in found.values() for m in models if m.path}
    named, of_models = _with_groups(gather(found), links, groups)
    origins = _origins(named, of_models, paths)
    models = _in_order(named, origins, every)
    panels, notes = _panels(models)
    return ReportScores(
        models=models,
        panels=panels,
        notes=[*notes, *links.notes],
        paths=paths,
        files=[str(each.folder / RESULTS) for each in scored],
        groups=of_models,
        origins=origins,
        trained=trained,
    )


def _asked(evaluations: Sequence[Evaluation]) -> list[StoredModel]:
    """Return the models that were asked tasks."""
    found = {}
    for record in (record for evaluation in evaluations for record in evaluation.tasks):
        known = (record.provenance.get("checkpoints") or {}).get(record.model) or {}
        if record.checkpoint_sha256 is not None:
            sha256 = record.checkpoint_sha256
            found[sha256] = StoredModel(record.model, sha256, known.get("path"))
    return list(found.values())


def _with_groups(
    models: Models, links: RunLinks, groups: Sequence[RunGroup]
) -> tuple[dict[str, Sequence[Trained]], dict[str, RunGroup]]:
    """Return models with their groups; where a folder is named by its seed, by the recipe."""
    of_run = {run.folder: group for group in groups for run in group.runs}
    named: dict[str, Sequence[Trained]] = {}
    of_models = {}
    for name, seeds in models.items():
        runs = [links.runs.get(trained.checkpoint) for trained in seeds]
        found = {of_run[run.folder].name: of_run[run.folder] for run in runs if run is not None}
        if len(found) != 1 or None in runs:
            named[name] = seeds
            continue
        group = next(iter(found.values()))
        is_recipe = len(group.runs) > 1 or has_seed_folder(group.runs[0])
        wanted = group.name if is_recipe else name
        folder = links.folders[seeds[0].checkpoint].name
        if wanted in named or wanted in models.keys() - {name}:
            wanted = f"{wanted}/{folder}"
        new = name if wanted in named else wanted
        named[new], of_models[new] = seeds, group
    return named, of_models


def _origins(
    models: Models, groups: Mapping[str, RunGroup], paths: Mapping[str, str]
) -> dict[str, str]:
    """Return the model that the runs of each model started with."""
    found = {}
    for name, group in groups.items():
        settings = group.settings.get("model")
        began = settings.get("checkpoint") if isinstance(settings, dict) else None
        for other, seeds in models.items():
            path = paths.get(seeds[0].checkpoint)
            is_same = began and path and other != name and is_end(Path(str(began)), Path(path))
            if is_same and len(seeds) == 1:
                found[name] = other
    return found


def _in_order(models: Models, origins: Mapping[str, str], every: Sequence[StoredModel]) -> Models:
    """Return the model first that most others started with, or were evaluated beside."""
    beside = Counter(model.checkpoint for model in every)
    began = Counter(origins.values())

    def weight(name: str) -> tuple[int, int]:
        return -began[name], -min(beside[trained.checkpoint] for trained in models[name])

    return {name: models[name] for name in sorted(models, key=weight)}


def restricted(models: Models, names: Sequence[str], subjects: Sequence[str]) -> Models:
    """Return these models with these subjects."""
    return {
        name: [
            Trained(each.checkpoint, {subject: each.scored[subject] for subject in subjects})
            for each in models[name]
        ]
        for name in names
    }


def subjects_of(models: Models) -> list[str]:
    """Return the subjects that any model was scored on."""
    every = [trained.scored for seeds in models.values() for trained in seeds]
    return list(dict.fromkeys(subject for scored in every for subject in scored))


def _panels(models: Models) -> tuple[list[Models], list[str]]:
    """Return models by the sources that they share; what is not the same question is a note."""
    groups: dict[tuple[str, ...], list[str]] = {}
    notes = []
    for subject in subjects_of(models):
        names = [n for n, seeds in models.items() if all(subject in s.scored for s in seeds)]
        if not names:
            notes.append(f"{subject} is left out: not scored for all seeds of any model.")
            continue
        try:
            aligned(subject, restricted(models, names, [subject]))
        except DataError as error:
            notes.append(f"{subject} is left out: {error}.")
            continue
        groups.setdefault(tuple(names), []).append(subject)
    return [restricted(models, names, found) for names, found in groups.items()], notes
