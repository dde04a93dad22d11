"""What configuration files may not do, wherever they come from.

A file of someone else may be read through `--config-dir`, a search path, or the settings in a run
folder. Which classes it may name is decided in targets.py; here is the rest: the environment that
it may read, the folders that it may read from, and the keys of Hydra itself, which start plugins,
configure logging by class name and set environment variables.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import (
    ImportlibResourcesConfigSource,
)
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from biomamba.config.location import conf_dir
from biomamba.config.wording import report
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.input_files import check_yaml

# Names that a config may read with ${oc.env:NAME}. Never a name that holds a secret: what a
# config reads ends up in paths, records and printed lines.
ENVIRONMENT = (
    *("HOME", "HOSTNAME", "SCRATCH", "TMPDIR", "USER", "WORK"),
    *("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE"),  # of torchrun
)
ENVIRONMENT_PREFIXES = ("BIOMAMBA_", "SLURM_")
_SECRET_WORDS = ("AUTH", "CRED", "JWT", "KEY", "PASS", "SECRET", "TOKEN")

_PLUGINS = {
    "launcher": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "sweeper": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
}
_LOG_FILE = "${hydra.runtime.output_dir}/${hydra.job.name}.log"
_LOG_KEYS = {
    "": ("version", "root", "handlers", "formatters", "loggers", "disable_existing_loggers"),
    "formatters": ("format", "datefmt"),
    "handlers": ("class", "formatter", "stream", "filename", "level", "mode"),
    "loggers": ("level", "handlers", "propagate"),
}
_LOG_VALUES = {
    "class": ("logging.StreamHandler", "logging.FileHandler"),
    "stream": ("ext://sys.stdout", "ext://sys.stderr"),
    "filename": (_LOG_FILE,),
}
_UNSET = object()


def install() -> None:
    """Make OmegaConf and Hydra follow the rules of this module; may be called again."""
    restrict_environment()
    Plugins.instance()  # registers the readers that are replaced here
    SourcesRegistry.instance().types |= {"file": _Files, "pkg": _Packages}


def restrict_environment() -> None:
    """Let ${oc.env:NAME} read the names of this module only, in every config of the process."""
    OmegaConf.register_new_resolver("oc.env", _environment_value, replace=True)


def _environment_value(name: str, default: Any = _UNSET) -> Any:
    is_listed = name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)
    if not is_listed or any(word in name.upper() for word in _SECRET_WORDS):
        prefixes = [f"{prefix}*" for prefix in ENVIRONMENT_PREFIXES]
        raise ConfigError(
            f"a config may not read the environment variable {name!r}; allowed: "
            f"{', '.join([*ENVIRONMENT, *prefixes])} (none with {', '.join(_SECRET_WORDS)})"
        )
    if name in os.environ:
        return os.environ[name]
    if default is _UNSET:
        raise ConfigError(
            f"the environment variable {name!r} is not set; set it, or give a default with "
            f"${{oc.env:{name},default}}"
        )
    return default


class _Files(FileConfigSource):
    """Reads the YAML files of a folder, and none outside it."""

    def load_config(self, config_path: str) -> ConfigResult:
        name = PurePosixPath(config_path)
        # By name: a link inside the folder is the choice of its owner.
        if name.is_absolute() or ".." in name.parts:
            raise ConfigError(f"config file {config_path}: lies outside its folder {self.path}")
        path = Path(self.path, self._normalize_file_name(config_path))
        if path.is_file() and Path(self.path) != conf_dir():
            check_yaml(path, error=ConfigError)
        return super().load_config(config_path)


class _Packages(ImportlibResourcesConfigSource):
    """Reads the files of Hydra and its plugins; a package of a config would be imported."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider=provider, path=path)
        if provider.startswith("hydra.searchpath"):
            raise ConfigError(f"hydra.searchpath: {path} is a package; name a folder, file://...")


@contextmanager
def checked_loading() -> Iterator[None]:
    """Check the `hydra` node of every config that Hydra composes, also of the jobs of a sweep.

    Raises:
        ConfigError: From within Hydra; the node could run or write something unforeseen.
    """
    loader: Any = ConfigLoaderImpl
    original = loader.load_configuration

    def load(*arguments: Any, **options: Any) -> DictConfig:
        cfg: DictConfig = original(*arguments, **options)
        problems = hydra_problems(cfg.hydra)
        if problems:
            raise ConfigError(report("the configuration", problems))
        return cfg

    loader.load_configuration = load
    try:
        yield
    finally:
        loader.load_configuration = original


def hydra_problems(hydra: DictConfig) -> list[str]:
    """Return one line per key of the `hydra` node that could run or write something unforeseen."""
    node: Any = OmegaConf.to_container(hydra, resolve=False)
    return [f"hydra.{problem}" for problem in _hydra_problems(node)]


def _hydra_problems(node: dict[str, Any]) -> Iterator[str]:
    for name, target in _PLUGINS.items():
        found = (node.get(name) or {}).get("_target_")
        if found not in (target, None, "???"):
            yield f"{name}._target_: must be {target}, found {found!r}"
    if node.get("callbacks"):
        yield f"callbacks: must be empty, found {', '.join(map(str, node['callbacks']))}"
    job = node.get("job") or {}
    if job.get("env_set"):
        names = ", ".join(map(str, job["env_set"]))
        yield f"job.env_set: must be empty, found {names}; set variables in the shell"
    if node.get("output_subdir") not in (None, ".hydra"):
        yield f"output_subdir: must be .hydra or null, found {node['output_subdir']!r}"
    job_name = job.get("name")
    if job_name is not None and not str(job_name).replace("_", "").isalnum():
        yield f"job.name: letters, digits and _ only, found {job_name!r}"
    for name in ("job_logging", "hydra_logging"):
        yield from _logging_problems(node.get(name), name)


def _logging_problems(node: Any, key: str) -> Iterator[str]:
    """Judge what becomes an argument of logging.config.dictConfig, which calls what `()` names."""
    if node is None:
        return
    if not isinstance(node, dict):
        yield f"{key}: must be a mapping, found {type(node).__name__}"
        return
    yield from _unknown(node, _LOG_KEYS[""], key)
    sections = {"root": ("loggers", {"": node.get("root") or {}})} | {
        name: (name, node.get(name) or {}) for name in ("formatters", "handlers", "loggers")
    }
    for name, (kind, entries) in sections.items():
        for entry, content in entries.items() if isinstance(entries, dict) else ():
            place = ".".join(part for part in (key, name, str(entry)) if part)
            if not isinstance(content, dict):
                yield f"{place}: must be a mapping, found {type(content).__name__}"
                continue
            yield from _unknown(content, _LOG_KEYS[kind], place)
            for field, value in content.items():
                allowed = _LOG_VALUES.get(str(field))
                if allowed and value not in allowed:
                    yield f"{place}.{field}: must be {' or '.join(allowed)}, found {value!r}"
                elif "ext://" in str(value).replace("ext://sys.std", "") or "cfg://" in str(value):
                    yield f"{place}.{field}: may not refer to an object, found {value!r}"


def _unknown(node: dict[str, Any], known: tuple[str, ...], key: str) -> Iterator[str]:
    for name in node:
        if name not in known:
            yield f"{key}.{name}: is not allowed here; allowed: {', '.join(known)}"
