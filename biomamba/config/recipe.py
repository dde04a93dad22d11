"""What a training run was told: the runs of one recipe differ in their seed only."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from biomamba.config.run_settings import stored_config
from biomamba.runtime.errors import DataError

# Where a run lies and how it was started again says nothing about what it does.
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
