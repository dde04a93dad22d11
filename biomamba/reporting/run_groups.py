"""Training runs by recipe: those that differ in their seed only are one line of a report."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biomamba.config.recipe import recipe_of
from biomamba.reporting.training_run import TrainingRun

_SEED_FOLDER = re.compile(r"seed[_-]?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class RunGroup:
    """The seeds of one recipe; a run that shares its recipe with no other is a group of its own."""

    name: str
    runs: tuple[TrainingRun, ...]

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings, of which the seed and the folders are those of the first run."""
        return self.runs[0].settings

    @property
    def num_tokens(self) -> float | None:
        """Tokens that a run has trained on, the mean over seeds."""
        return mean_of([run.num_tokens for run in self.runs])

    @property
    def hours(self) -> float | None:
        """Hours of a run, the mean over seeds."""
        return mean_of([run.actual.hours for run in self.runs])


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def run_groups(runs: Sequence[TrainingRun]) -> list[RunGroup]:
    """Put the runs of each recipe together, in the order of their seeds.

    Runs of one recipe with the same seed twice stay alone: which of them to take is not known.
    """
    recipes: dict[str, list[tuple[int, TrainingRun]]] = {}
    for run in runs:
        recipe = recipe_of(run.folder / "model")
        key, seed = (run.name, 0) if recipe is None else (recipe.fingerprint, recipe.seed)
        recipes.setdefault(key, []).append((seed, run))
    groups: list[RunGroup] = []
    for members in recipes.values():
        is_one = len({seed for seed, _ in members}) == len(members)
        together = (
            [sorted(members, key=lambda member: member[0])] if is_one else [[m] for m in members]
        )
        for each in together:
            found = tuple(run for _, run in each)
            taken = {group.name for group in groups}
            groups.append(RunGroup(next(n for n in _names(found) if n not in taken), found))
    return groups


def has_seed_folder(run: TrainingRun) -> bool:
    """Whether the folder of a run is named by its seed, so that the one above names the recipe."""
    return bool(_SEED_FOLDER.fullmatch(run.folder.absolute().name))


def _names(runs: Sequence[TrainingRun]) -> Iterator[str]:
    """Yield names of a group, the best first; the last one has no other."""
    first = runs[0]
    if has_seed_folder(first):
        yield first.folder.absolute().parent.name
        yield "/".join(first.folder.absolute().parts[-3:-1])
    elif len(runs) > 1:
        yield str(first.settings.get("name") or first.name).rpartition("/")[2]
    yield first.name
    yield f"{first.name} and other seeds"
