"""Which training run wrote the weights that an evaluation is about."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from biomamba.evaluation.stored_run import StoredModel
from biomamba.model.formats.tensor_files import find_weights
from biomamba.reporting.training_run import TrainingRun
from biomamba.runtime.errors import CheckpointError

_MODELS = ("model", "model_best", "model_ema")


@dataclass
class RunLinks:
    """The run and the model folder of each checkpoint, by its sha256, and what is odd about it."""

    runs: dict[str, TrainingRun] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def link_runs(models: Iterable[StoredModel], runs: Sequence[TrainingRun]) -> RunLinks:
    """Find the run of every checkpoint: by where it lay, or else by its weights.

    The path of an evaluation may be from another folder or machine: its end decides then. Weights
    that lie there must have the sha256 that was evaluated; if none lie there, the path is believed.
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
                "were trained anew since; evaluate them again."
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
    """Return a model with the path of its weights where they lie now."""
    folder: Mapping[str, Path] = links.folders
    path = str(folder[model.checkpoint]) if model.checkpoint in folder else model.path
    return StoredModel(model.label, model.checkpoint, path, dict(model.scored))
