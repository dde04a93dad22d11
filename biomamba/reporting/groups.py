"""Training runs grouped by configuration, and groups that answer one question."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from biomamba.config.run_settings import NOT_RECIPE, recipe_of
from biomamba.reporting.inputs import TrainingRun
from biomamba.runtime.errors import ConfigError

# -------------------------------------------------------------------------------------------------
# Training runs by recipe: those that differ in their seed only are one line of a report.
# -------------------------------------------------------------------------------------------------

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


# -------------------------------------------------------------------------------------------------
# Recipes that answer one question: a reference, and what was changed against it.
# -------------------------------------------------------------------------------------------------

_STUDIES = ("ablation", "scaling")  # first part of the names of experiments that belong together
_MAX_TOLD = 4  # settings that are told of a treatment
_MISSING = "not set"


@dataclass(frozen=True)
class Family:
    """Recipes with the one that the others are compared with, which is the first of `groups`."""

    name: str
    groups: Sequence[RunGroup]

    @property
    def reference(self) -> RunGroup:
        """What the others are compared with."""
        return self.groups[0]


@dataclass(frozen=True)
class Families:
    """The families of a report, and what was asked for and is not there."""

    found: Sequence[Family]
    notes: Sequence[str] = ()


def families_of(
    groups: Sequence[RunGroup], wanted: Mapping[str, Sequence[str]] | None = None
) -> Families:
    """Return the families that are named, or those that the names of experiments tell.

    wanted maps a family to patterns of names of recipes, of which the first is the reference. None:
    recipes of experiments of `ablation/` and `scaling/` that share the first word. Their reference
    is the recipe that is nearest to most of all others, unless the family has a nearer one.

    Raises:
        ConfigError: `wanted` is not what it must be.
    """
    if wanted is not None:
        return _named(groups, wanted)
    members: dict[str, list[RunGroup]] = {}
    for group in groups:
        study, _, name = str(group.settings.get("name") or "").partition("/")
        if study in _STUDIES:
            members.setdefault(f"{study}/{name.partition('_')[0]}", []).append(group)
    every = [group for found in members.values() for group in found]
    found = []
    for name, mine in members.items():
        reference = _reference(mine, every)
        if len(rest := [group for group in mine if group is not reference]):
            found.append(Family(name, [reference, *rest]))
    return Families(found)


def difference_of(group: RunGroup, reference: RunGroup) -> str:
    """Say in which settings a recipe differs from another one."""
    mine, other = _leaves(group.settings), _leaves(reference.settings)
    changed = [key for key in dict.fromkeys([*other, *mine]) if mine.get(key) != other.get(key)]
    told = [f"{_short(key)} {_value(mine.get(key, _MISSING))}" for key in changed[:_MAX_TOLD]]
    rest = len(changed) - _MAX_TOLD
    return ", ".join([*told, *([f"{rest} more"] if rest > 0 else [])]) or "nothing but the name"


def _named(groups: Sequence[RunGroup], wanted: Mapping[str, Sequence[str]]) -> Families:
    families, notes = [], []
    for name, patterns in wanted.items():
        if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
            raise ConfigError(
                f"report.families.{name} must list names of recipes, the reference first, found "
                f"{patterns!r}; as in report.families.{name}=[mix_80_10_10,packing_*]"
            )
        matches = [[g for g in groups if _is_named(g, pattern)] for pattern in patterns]
        told = {id(group): group for found in matches for group in found}
        odd = [p for p, found in zip(patterns, matches, strict=True) if not found]
        if odd:
            notes.append(f"{name}: no run is named {', '.join(odd)}.")
        if len(told) > 1 and matches[0]:
            families.append(Family(name, list(told.values())))
        elif told:
            notes.append(f"{name} is left out: it needs its reference and one more recipe.")
    return Families(families, notes)


def _is_named(group: RunGroup, pattern: str) -> bool:
    names = (group.name, str(group.settings.get("name") or ""))
    return any(fnmatchcase(name, pattern) for name in names)


def _reference(mine: Sequence[RunGroup], every: Sequence[RunGroup]) -> RunGroup:
    def farthest(group: RunGroup) -> int:
        return max(_distance(group, other) for other in mine)

    # Names decide between equals, so that the order of folders does not.
    hub = min(every, key=lambda group: (sum(_distance(group, o) for o in every), group.name))
    own = min(mine, key=lambda group: (farthest(group), group.name))
    is_alone = len(mine) == 1
    return hub if is_alone or farthest(hub) <= farthest(own) else own


def _distance(one: RunGroup, other: RunGroup) -> int:
    a, b = _leaves(one.settings), _leaves(other.settings)
    return sum(a.get(key, _MISSING) != b.get(key, _MISSING) for key in {*a, *b})


def _leaves(settings: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict) or not settings:
        return {prefix: settings}
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if prefix or key not in NOT_RECIPE:
            found |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _short(key: str) -> str:
    parts = [part for part in key.split(".") if part != "_target_"]
    return parts[-1]


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "none" if value is None else str(value).lower()
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}"
    if isinstance(value, str) and value.count(".") > 1 and "/" not in value:
        return value.rpartition(".")[2]  # a class
    if isinstance(value, list):
        return " ".join(map(_value, value))
    return str(value).rpartition("/")[2]
