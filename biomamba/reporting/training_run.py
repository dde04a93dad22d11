"""A training run as its folder tells it: record, settings and curves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biomamba.config.recipe import settings_of
from biomamba.planning.comparison import Actual, read_actual
from biomamba.reporting.report_folders import RUN_RECORD
from biomamba.runtime.errors import DataError
from biomamba.runtime.record_shapes import read_run_record

_EVENTS = "events.out.tfevents.*"
_FIRST_EVENT = b"brain.Event:"  # the first record of an event file names the format

Curve = dict[int, float]  # values by step


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A run: its name in the report, its folder, run.json, settings as written, and curves."""

    name: str
    folder: Path
    record: Mapping[str, Any]
    settings: Mapping[str, Any]
    curves: Mapping[str, Curve]
    actual: Actual

    @property
    def tokens_by_step(self) -> Curve:
        """Tokens trained on, which start at 0 at step 0; empty where they were not logged."""
        found = self.curves.get("data/tokens", {})
        return {0: 0.0, **found} if found else {}

    @property
    def num_tokens(self) -> float | None:
        """Tokens that the run has trained on."""
        told = [found.get("tokens") for found in self.record.get("realised", {}).values()]
        realised = [tokens for tokens in told if isinstance(tokens, int | float)]
        return float(sum(realised)) if realised else None

    def validation(self, figure: str) -> dict[str, tuple[float | None, float | None]]:
        """Return a figure of every source before and after the run."""
        stages = [self.record.get(stage, {}) for stage in ("before", "after")]
        ends = {key for stage in stages for key in stage if key.endswith(f"/{figure}")}
        names = {key: key.removeprefix("val/").removesuffix(f"/{figure}") for key in sorted(ends)}
        return {
            name: (_number(stages[0].get(key)), _number(stages[1].get(key)))
            for key, name in names.items()
        }


def read_training_run(name: str, folder: Path) -> TrainingRun:
    """Read a run from its folder.

    Raises:
        DataError: A file is damaged, or not one of a run.
    """
    path = folder / RUN_RECORD
    try:
        record = _checked(path, read_run_record(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    curves = _read_curves(folder)
    return TrainingRun(
        name=name,
        folder=folder,
        record=record,
        settings=settings_of(folder) or {},
        curves=curves,
        actual=read_actual(folder),
    )


def _checked(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return the record without what is null in its provenance: it was not known."""
    if "provenance" not in record:
        raise DataError(f"{path}: no record of a training run, which biomamba.train writes")
    provenance = {key: value for key, value in record["provenance"].items() if value is not None}
    return {**record, "provenance": provenance}


def _read_curves(folder: Path) -> dict[str, Curve]:
    """Return every scalar; a resumed start takes back the points that it makes again."""
    paths = sorted(folder.rglob(_EVENTS))
    for path in paths:
        with path.open("rb") as file:
            head = file.read(128)
        if head and _FIRST_EVENT not in head:
            raise DataError(f"{path}: not a file of TensorBoard events, or damaged; take it away")
    curves: dict[str, Curve] = {}
    for parent in dict.fromkeys(path.parent for path in paths):
        events = EventAccumulator(str(parent), {"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            points = {point.step: float(point.value) for point in events.Scalars(tag)}
            curves.setdefault(tag, {}).update(points)
    return {tag: dict(sorted(curve.items())) for tag, curve in curves.items()}


def _number(value: object) -> float | None:
    """Return a figure of run.json, where those that are not finite are words."""
    try:
        return None if value is None else float(str(value))
    except ValueError:
        return None
