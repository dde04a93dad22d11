"""The models of all evaluations, put together by checkpoint, ready for a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from biomamba.evaluation.comparison import Models, Trained, aligned
from biomamba.evaluation.gathering import gather
from biomamba.reporting.report_folders import RESULTS
from biomamba.reporting.report_inputs import Evaluation
from biomamba.runtime.errors import DataError


@dataclass(frozen=True)
class ReportScores:
    """What can be compared.

    Attributes:
        models: Every model on every source that it was scored on.
        panels: Models that were scored on the same sources in the same way, with these only.
        notes: What cannot be compared, and why.
        paths: Where the weights lay, by sha256.
        files: The files that hold the scores.
    """

    models: Models = field(default_factory=dict)
    panels: Sequence[Models] = ()
    notes: Sequence[str] = ()
    paths: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[str] = ()


def report_scores(evaluations: Sequence[Evaluation]) -> ReportScores:
    """Put the models of evaluations together.

    Raises:
        DataError: A checkpoint was scored twice on a source with different figures.
    """
    scored = [found for found in evaluations if found.models]
    if not scored:
        return ReportScores()
    paths = {m.checkpoint: m.path for found in scored for m in found.models if m.path}
    models = gather({found.folder: found.models for found in scored})
    panels, notes = _panels(models)
    files = [str(found.folder / RESULTS) for found in scored]
    return ReportScores(models, panels, notes, paths, files)


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
