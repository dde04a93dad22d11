"""Compose a primary config with command-line overrides, or say everything that is wrong with them.

Hydra stops at the first override that it cannot apply. `preflight` applies them one after the
other, sets those aside that fail, and checks what is left, so that one start shows every mistake.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from biomamba.config.annotations import join_key
from biomamba.config.check import config_problems
from biomamba.config.messages import first_line, report, unknown_name
from biomamba.config.safety import conf_dir, hydra_problems, parameter_names
from biomamba.config.schema import register_schemas
from biomamba.runtime.errors import ConfigError

# -------------------------------------------------------------------------------------------------
# Explain to a user why Hydra refused a command-line override, with the names it would accept.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rejection:
    """An override that Hydra refused, and the reason it gave."""

    override: str
    error: Exception


def explain(
    rejections: Sequence[Rejection], cfg: DictConfig, folders: Sequence[Path]
) -> tuple[list[str], bool]:
    """Return the problems in words, and whether the rest of the config can be judged without them.

    Where a whole file could not be chosen (an experiment, an option), the keys it would have
    brought are absent: only keys that no config has are then reported besides.
    """
    problems: list[str] = []
    brought_files = [_chooses_file(rejection) for rejection in rejections]
    for rejection, is_file in zip(rejections, brought_files, strict=True):
        found = list(_problems(rejection, cfg, folders))
        may_follow = any(brought_files) and not is_file
        if not (may_follow and _first_name(rejection.override) in cfg):
            problems += found
    return problems, not any(brought_files)


def _problems(rejection: Rejection, cfg: DictConfig, folders: Sequence[Path]) -> Iterator[str]:
    override, error = _parse(rejection.override), rejection.error
    is_plain = isinstance(error, OmegaConfBaseException)
    reason = error if is_plain else error.__cause__ or error.__context__
    in_file = re.match(r"In '([^']+)':", str(error))
    if isinstance(error, MissingConfigException):
        yield _missing_file(rejection.override, str(error.missing_cfg_file), folders)
    elif in_file and isinstance(reason, ConfigKeyError | ConfigAttributeError):
        yield from _unknown_in_file(in_file[1], reason, cfg, folders)
    elif override and isinstance(reason, ConfigKeyError | ConfigAttributeError):
        yield _unknown_key(override, cfg, folders)
    elif isinstance(reason, OmegaConfBaseException):
        yield f"{rejection.override}: {first_line(reason)}"
    else:
        yield f"{rejection.override}: {' '.join(str(error).split())}"


def _chooses_file(rejection: Rejection) -> bool:
    return isinstance(rejection.error, MissingConfigException) or str(rejection.error).startswith(
        "In '"
    )


def _parse(text: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None


def _first_name(text: str) -> str:
    override = _parse(text)
    return override.key_or_group.split(".")[0].split("/")[0] if override else ""


def _missing_file(override: str, missing: str, folders: Sequence[Path]) -> str:
    top, _, name = missing.partition("/")
    options = _options(top, folders)
    if not options:
        return f"{override}: {unknown_name('config group', top, _groups(folders))}"
    listed = "; biomamba <command> --list explains them" if top == "experiment" else ""
    return f"{override}: {unknown_name(f'option of {top}', name, options)}{listed}"


def _unknown_in_file(
    config: str, reason: OmegaConfBaseException, cfg: DictConfig, folders: Sequence[Path]
) -> Iterator[str]:
    """Yield every unknown top-level key of the file; Hydra names the first one only."""
    accepted = [str(name) for name in cfg if name != "hydra"]
    path = next((f / f"{config}.yaml" for f in folders if (f / f"{config}.yaml").is_file()), None)
    unknown = [str(reason.full_key or reason.key)]
    if path and unknown[0] not in accepted and "." not in unknown[0]:
        present = [str(name) for name in OmegaConf.load(path)]
        unknown = [k for k in present if k not in (*accepted, "defaults", "hydra")] or unknown
    for name in unknown:
        yield f"{config}.yaml: {unknown_name('key', name, accepted)}"


def _unknown_key(override: Override, cfg: DictConfig, folders: Sequence[Path]) -> str:
    key, value = override.key_or_group, override.value()
    parent, name, node = _deepest(key, cfg)
    if not name and isinstance(value, dict):
        return _unknown_in_mapping(key, value, node)
    if not parent and name != key and name in list(cfg.keys()):
        return f"{key}: {name} is not set; set it as a whole, '{name}={{...}}'"
    if not parent:
        if _options(key, folders):
            return f"{override.input_line}: '{key}' is no default here; write +{key}={value}"
        names = [*(str(k) for k in cfg if k != "hydra"), *_groups(folders)]
        return f"{key}: {unknown_name('key', name, names)}"
    parameters = parameter_names(node, parent)
    if name in parameters and join_key(parent, name) == key:
        return f"{key}: the config does not set '{name}'; to add it write +{override.input_line}"
    present = [str(k) for k in node if not str(k).startswith("_")] if _is_dict(node) else []
    words = unknown_name("key", name, {*present, *parameters})
    return f"{key}: {words}{_how_to_add(node, key)}"


def _unknown_in_mapping(key: str, value: Mapping[Any, Any], node: Any) -> str:
    """Name the keys of a mapping (`key={a: ..., b: ...}`) that the config does not have there."""
    if not _is_dict(node):
        return f"{key}: takes no mapping, found {value}"
    parameters = parameter_names(node)
    present = [str(name) for name in node if not str(name).startswith("_")]
    unknown = [str(name) for name in value if name not in node]
    for name in unknown:
        if name not in parameters:
            place, words = join_key(key, name), unknown_name("key", name, {*present, *parameters})
            return f"{place}: {words}{_how_to_add(node, place)}"
    inner = [name for name in value if isinstance(value[name], dict) and name in node]
    if not unknown and inner:
        return _unknown_in_mapping(join_key(key, inner[0]), value[inner[0]], node[inner[0]])
    place = join_key(key, ".".join(unknown[:1]))
    return f"{place}: the config does not set it; to add it write +{place}=..."


def _how_to_add(node: Any, place: str) -> str:
    """Say how a mapping from names that the user chooses, as of sources, gets a further one."""
    is_free = _is_dict(node) and "_target_" not in node and OmegaConf.get_type(node) is dict
    other = f"~{place.rpartition('.')[0]}.<name>"
    return f"; to add it write '+{place}=...', to take one away '{other}'" if is_free else ""


def _deepest(key: str, cfg: DictConfig) -> tuple[str, str, Any]:
    """Return the longest existing parent of a key, the first name missing in it, and its node."""
    parent, node = "", cfg
    for name in key.split("."):
        child = None
        if _is_dict(node) and name in node and not OmegaConf.is_missing(node, name):
            child = node[name]
        if child is None:
            return parent, name, node
        parent, node = join_key(parent, name), child
    return parent, "", node


def _is_dict(node: Any) -> bool:
    return isinstance(node, DictConfig) and not OmegaConf.is_missing(node, "")


def _groups(folders: Sequence[Path]) -> list[str]:
    return [child.name for folder in folders for child in folder.iterdir() if child.is_dir()]


def _options(group: str, folders: Sequence[Path]) -> list[str]:
    """Return the options of a group and of its subfolders; files that start with _ are parts."""
    return [
        path.relative_to(folder / group).with_suffix("").as_posix()
        for folder in folders
        for path in sorted((folder / group).rglob("*.yaml"))
        if not path.name.startswith("_")
    ]


# -------------------------------------------------------------------------------------------------
# Compose a primary config with command-line overrides, or say everything that is wrong with them.
# -------------------------------------------------------------------------------------------------

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

    An override may need one that is behind it, so the failing ones are tried again for as
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


# -------------------------------------------------------------------------------------------------
# Compose and check the configuration of another program, within one that Hydra has started.
# -------------------------------------------------------------------------------------------------


def checked_settings(program: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the configuration that a program would receive, interpolations not resolved.

    So it does not depend on the time of day, which the default of `run_id` holds.

    Raises:
        ConfigError: The program would refuse it; all problems are told.
    """
    with _own_hydra_aside():
        preflight(program, overrides)
        content: Any = OmegaConf.to_container(compose_config(program, overrides), resolve=False)
    settings: dict[str, Any] = content
    return settings


@contextmanager
def _own_hydra_aside() -> Iterator[None]:
    """Hydra composes for one program at a time."""
    own, own_config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = own
        HydraConfig.instance().cfg = own_config
