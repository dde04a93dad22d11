"""The settings that a training run keeps in its folder, as plain values."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from biomamba.runtime.errors import DataError

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


def stored_config(run: Path) -> DictConfig | None:
    """Return the settings of a run as they were written; None without any.

    Raises:
        DataError: The file is not one of settings.
    """
    path = run / ".hydra" / "config.yaml"
    if not path.is_file():
        return None
    try:
        config = OmegaConf.load(path)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise DataError(f"{path}: not the settings of a run ({error}); restore it") from error
    if not isinstance(config, DictConfig):
        raise DataError(f"{path}: not the settings of a run: it has no keys; restore it")
    return config


def run_settings_in(run: Path) -> dict[str, Any]:
    """Return what a run folder keeps of the settings that decide about its model; empty if nothing.

    Raises:
        DataError: The file is not one of settings.
    """
    config = stored_config(run)
    if config is None:
        return {}
    try:
        # The name of a run may refer to the time or a job, which are not those of today.
        return {name: _plain(config, name) for name in _TOLD if name in config}
    except OmegaConfBaseException as error:
        path = run / ".hydra" / "config.yaml"
        raise DataError(f"{path}: not the settings of a run ({error}); restore it") from error


def plain_parts(config: DictConfig) -> dict[str, Any]:
    """Return the top-level parts of settings that have a value; stored ones may have lost some."""
    parts = {}
    for key in config:
        with suppress(OmegaConfBaseException):
            value = config[key]
            is_config = OmegaConf.is_config(value)
            parts[str(key)] = OmegaConf.to_container(value, resolve=True) if is_config else value
    return parts


def _plain(config: DictConfig, name: str) -> Any:
    value = config[name]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
