"""Explain to a user why Hydra refused a command-line override, with the names it would accept."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from biomamba.config.targets import parameter_names
from biomamba.config.tree import join_key
from biomamba.config.wording import first_line, unknown_name


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
    """Return the options of a group and of its subfolders; files that begin with _ are parts."""
    return [
        path.relative_to(folder / group).with_suffix("").as_posix()
        for folder in folders
        for path in sorted((folder / group).rglob("*.yaml"))
        if not path.name.startswith("_")
    ]
