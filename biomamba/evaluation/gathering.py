"""From the models of several evaluations to models with names and seeds, ready to be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from biomamba.config.recipe import Recipe, recipe_of
from biomamba.evaluation.comparison import Models, Trained
from biomamba.evaluation.scored import Scored
from biomamba.evaluation.stored_run import StoredModel
from biomamba.runtime.errors import DataError
from biomamba.training.lineage import worst_status

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
