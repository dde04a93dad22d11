"""The settings that a training run keeps in its folder, as plain values."""

import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from biomamba.config.check import node_problems
from biomamba.config.messages import first_line, report
from biomamba.config.safety import restrict_environment, with_current_names
from biomamba.runtime.errors import DataError
from biomamba.runtime.input_files import (
    COUNT,
    LIST,
    OBJECT,
    TEXT,
    Each,
    Shape,
    check_shape,
    check_yaml,
)

_TOLD = (
    "data",
    "tasks",
    "corpora",
    "model",
    "optimizer",
    "schedule",
    "max_tokens",
    "tokens_per_step",
    "trainer",
    "seed",
)
_SHAPE: Shape = {
    "data": {"sources": Each(LIST), "corpora": OBJECT, "budget": OBJECT, "tasks": OBJECT},
    "tasks": OBJECT,
    "corpora": OBJECT,
    "model": {"checkpoint": TEXT, "config": OBJECT, "backend": OBJECT, "adaptation": OBJECT},
    "optimizer": OBJECT,
    "schedule": OBJECT,
    "trainer": OBJECT,
    "max_tokens": COUNT,
    "tokens_per_step": COUNT,
    "seed": COUNT,
}


def stored_config(run: Path) -> DictConfig | None:
    """Return the settings of a run; None without any.

    They are as they were written, but for classes that have moved since, which are named as now.
    They are data: whoever builds something from them checks it first (`checked_part`).

    Raises:
        DataError: The file is not one of settings.
    """
    path = settings_path(run)
    try:
        check_yaml(path)
        config = OmegaConf.load(path)
    except FileNotFoundError:
        return None
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise DataError(f"{path}: not the settings of a run ({error}); restore it") from error
    if not isinstance(config, DictConfig):
        raise DataError(f"{path}: not the settings of a run: it has no keys; restore it")
    restrict_environment()
    written = OmegaConf.to_container(config, resolve=False)
    current: DictConfig = OmegaConf.create(with_current_names(written))
    return current


def settings_path(run: Path) -> Path:
    """Return where Hydra keeps the settings of a run."""
    return run / ".hydra" / "config.yaml"


def checked_part(run: Path, config: DictConfig, names: Collection[str]) -> None:
    """Refuse settings of a run that cannot be built, as the command line would.

    Args:
        run: The folder of the run, for the message.
        config: Its settings.
        names: Dotted keys whose nodes are to be built; those that are missing are ignored.

    Raises:
        DataError: It lists every problem by key.
    """
    path = settings_path(run)
    try:
        parts = {name: OmegaConf.select(config, name) for name in names}
        problems = [
            problem
            for name, part in parts.items()
            if isinstance(part, DictConfig)
            for problem in node_problems(part, name)
        ]
    except OmegaConfBaseException as error:
        raise DataError(f"{path}: not the settings of a run ({first_line(error)})") from error
    if problems:
        raise DataError(report(str(path), problems))


def run_settings_in(run: Path) -> dict[str, Any]:
    """Return what a run folder keeps of the settings that decide about its model; empty if nothing.

    Raises:
        DataError: The file is not one of settings, or a value of it is of another kind.
    """
    config = stored_config(run)
    if config is None:
        return {}
    # The name of a run may refer to the time or a job, which are not those of today.
    settings = plain_part(run, config, _TOLD)
    check_shape(settings_path(run), settings, _SHAPE)
    return {name: value for name, value in settings.items() if value is not None}


def plain_part(run: Path, config: DictConfig, names: Collection[str]) -> dict[str, Any]:
    """Return some top-level keys of the settings of a run as plain values, references resolved.

    Raises:
        DataError: A reference leads nowhere.
    """
    try:
        values = {name: config[name] for name in names if name in config}
        return {
            name: OmegaConf.to_container(value, resolve=True)
            if OmegaConf.is_config(value)
            else value
            for name, value in values.items()
        }
    except OmegaConfBaseException as error:
        path = settings_path(run)
        raise DataError(f"{path}: not the settings of a run ({first_line(error)})") from error


def plain_parts(config: DictConfig) -> dict[str, Any]:
    """Return the top-level parts of settings that have a value; stored ones may have lost some."""
    parts = {}
    for key in config:
        with suppress(OmegaConfBaseException):
            value = config[key]
            is_config = OmegaConf.is_config(value)
            parts[str(key)] = OmegaConf.to_container(value, resolve=True) if is_config else value
    return parts


# -------------------------------------------------------------------------------------------------
# What a training run was told: the runs of one recipe differ in their seed only.
# -------------------------------------------------------------------------------------------------

# Where a run is and how it was started again says nothing about what it does.
NOT_RECIPE = frozenset({"seed", "name", "run_id", "paths", "resume", "allow_change"})


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run.

    Attributes:
        fingerprint: sha256 over all settings but the seed and the folders of the run itself.
        seed: Its seed.
        run: Its folder.
    """

    fingerprint: str
    seed: int
    run: Path


def recipe_of(checkpoint: Path) -> Recipe | None:
    """Return the recipe of the run that wrote a model folder; None if none is known there.

    Raises:
        DataError: The file of settings of the run is not one.
    """
    run = checkpoint.absolute().parent
    settings = settings_of(run)
    if settings is None:
        return None
    if not isinstance(settings.get("seed"), int):
        path = run / ".hydra" / "config.yaml"
        raise DataError(f"{path}: not the settings of a training run: it has no seed")
    return Recipe(_fingerprint(checkpoint, settings, NOT_RECIPE), settings["seed"], run)


def recipe_but_tokens(checkpoint: Path) -> str | None:
    """Return a sha256 that models share if their runs differ in tokens and seeds only.

    Raises:
        DataError: As recipe_of.
    """
    settings = settings_of(checkpoint.absolute().parent)
    if settings is None:
        return None
    return _fingerprint(checkpoint, settings, NOT_RECIPE | {"max_tokens"})


def settings_of(run: Path) -> dict[str, Any] | None:
    """Return the settings of a run as they were written, references as such; None without any.

    Raises:
        DataError: The file of settings is not one.
    """
    config = stored_config(run)
    if config is None:
        return None
    settings: Any = OmegaConf.to_container(config, resolve=False)
    return {str(key): value for key, value in settings.items()}


def _fingerprint(checkpoint: Path, settings: dict[str, Any], left_out: frozenset[str]) -> str:
    # As written, with references such as ${seed}: their values would tell the seeds apart.
    told = {key: value for key, value in settings.items() if key not in left_out}
    # The averaged weights of a run, in a folder of another name, are another model.
    text = json.dumps([checkpoint.name, told], sort_keys=True)
    return sha256(text.encode()).hexdigest()
