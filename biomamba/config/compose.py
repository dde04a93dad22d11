"""Compose a primary config with command-line overrides, or say everything that is wrong with them.

Hydra stops at the first override that it cannot apply. `preflight` applies them one after the
other, sets those aside that fail, and checks what is left, so that one start shows every mistake.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from biomamba.config.check import config_problems
from biomamba.config.location import conf_dir
from biomamba.config.overrides import Rejection, explain
from biomamba.config.safety import hydra_problems
from biomamba.config.schema import register_schemas
from biomamba.config.wording import report
from biomamba.runtime.errors import ConfigError

# Hydra raises a bare ValueError for some overrides (`model=1` where `model` is a group).
_REFUSALS = (HydraException, OmegaConfBaseException, YAMLError, ValueError)


@contextmanager
def composer(
    config_name: str, folder: Path | None = None, extra_dir: Path | None = None
) -> Iterator[Callable[[Sequence[str]], DictConfig]]:
    """Yield a function from overrides to the composed config, its `hydra` node included.

    `folder` stands in for the shipped conf/; `extra_dir` is what --config-dir adds to it.
    """
    register_schemas()
    main = (folder or conf_dir()).resolve()
    with initialize_config_dir(str(main), job_name=config_name, version_base="1.3"):
        if extra_dir is not None:
            _add_folder(extra_dir)

        def compose(overrides: Sequence[str]) -> DictConfig:
            hydra: Any = GlobalHydra.instance().hydra
            cfg = hydra.compose_config(config_name, list(overrides), RunMode.RUN)
            assert isinstance(cfg, DictConfig)
            _refuse_added_keys(cfg)
            return cfg

        yield compose


def _add_folder(extra_dir: Path) -> None:
    """Search a further folder, as --config-dir does."""
    loader: Any = GlobalHydra.instance().config_loader()
    loader.get_search_path().prepend(
        "command-line", f"file://{extra_dir.resolve()}", anchor=SearchPathQuery(provider="schema")
    )
    loader.repository.initialize_sources(loader.get_search_path())


def _refuse_added_keys(cfg: DictConfig) -> None:
    """Refuse what Hydra lets pass: `+key=value` with a top-level key that the schema lacks."""
    schema = OmegaConf.get_type(cfg)
    if not dataclasses.is_dataclass(schema):
        return
    accepted = {field.name for field in dataclasses.fields(schema)} | {"hydra"}
    for name in sorted(str(key) for key in cfg.keys() - accepted):
        raise ConfigKeyError(f"Key '{name}' not in '{schema.__name__}'")


def compose_config(
    config_name: str, overrides: Sequence[str] = (), folder: Path | None = None
) -> DictConfig:
    """Return the config a program would receive for these overrides."""
    with composer(config_name, folder) as compose:
        return _without_hydra(compose(overrides))


def preflight(
    config_name: str,
    overrides: Sequence[str],
    folder: Path | None = None,
    extra_dir: Path | None = None,
) -> None:
    """Raise one ConfigError that lists every problem of the overrides and the composed config."""
    with composer(config_name, folder, extra_dir) as compose:
        problems: list[str] = []
        try:
            cfg = compose(overrides)
        except _REFUSALS:
            accepted, rejected = _sort_out(compose, overrides)
            cfg = _base(compose, accepted, config_name)
            folders = [folder or conf_dir(), *([extra_dir] if extra_dir else [])]
            problems, is_complete = explain(rejected, cfg, folders)
        else:
            is_complete = True
        problems += hydra_problems(cfg.hydra)
        if is_complete:
            problems += _problems_of(cfg)
    if problems:
        raise ConfigError(report(f"the configuration of '{config_name}'", problems))


def _sort_out(
    compose: Callable[[Sequence[str]], DictConfig], overrides: Sequence[str]
) -> tuple[list[str], list[Rejection]]:
    """Split the overrides into those that compose together and those that do not.

    An override may need one that stands behind it, so the failing ones are tried again for as
    long as some of them succeed.
    """
    accepted: list[str] = []
    pending = list(overrides)
    while True:
        rejected = []
        for override in pending:
            try:
                compose([*accepted, override])
            except _REFUSALS as error:
                rejected.append(Rejection(override, error))
            else:
                accepted.append(override)
        if len(rejected) in (0, len(pending)):
            return accepted, rejected
        pending = [rejection.override for rejection in rejected]


def _base(
    compose: Callable[[Sequence[str]], DictConfig], accepted: Sequence[str], config_name: str
) -> DictConfig:
    try:
        return compose(accepted)
    except _REFUSALS as error:
        raise ConfigError(
            f"the primary config '{config_name}' does not compose: {' '.join(str(error).split())}"
        ) from error


def _problems_of(cfg: DictConfig) -> list[str]:
    """Check a config with its `hydra` node in place, so that ${hydra:...} resolves as in a job."""
    singleton = HydraConfig.instance()
    previous = singleton.cfg
    run_dir = OmegaConf.select(cfg, "hydra.run.dir", throw_on_resolution_failure=False)
    with open_dict(cfg.hydra):
        cfg.hydra.runtime.output_dir = str(Path(str(run_dir)).absolute())
        cfg.hydra.job.num = 0
    try:
        singleton.set_config(cfg)
        return config_problems(_without_hydra(cfg))
    finally:
        singleton.cfg = previous


def _without_hydra(cfg: DictConfig) -> DictConfig:
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return cfg
