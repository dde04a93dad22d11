"""Turn a composed config into plain values, collecting what is missing or cannot be resolved."""

import dataclasses
from typing import Any, Final

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from biomamba.config.wording import first_line, unknown_name


class Unresolved:
    """Stands in the plain tree for a value that could not be had."""


UNRESOLVED: Final = Unresolved()


def plain_tree(cfg: DictConfig, key: str = "") -> tuple[dict[str, Any], list[str]]:
    """Return the config as dicts, lists and scalars, and one problem per value without one.

    A value that refers to a missing one is not a problem of its own: the missing one is listed.
    """
    problems: list[str] = []
    return _plain_dict(cfg, key, problems), problems


def join_key(parent: str, name: object) -> str:
    """Return the dotted key of a child."""
    return f"{parent}.{name}" if parent else str(name)


def select(tree: Any, key: str) -> Any:
    """Return the value at a dotted key of a plain tree, or None where there is none."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _plain_dict(node: DictConfig, key: str, problems: list[str]) -> dict[str, Any]:
    # `+key=value` on the command line adds keys that the node's schema does not have.
    schema = OmegaConf.get_type(node)
    if dataclasses.is_dataclass(schema):
        accepted = [field.name for field in dataclasses.fields(schema)]
        for name in node.keys() - set(accepted):
            problems.append(f"{join_key(key, name)}: {unknown_name('key', str(name), accepted)}")
    return {str(name): _value(node, name, join_key(key, name), problems) for name in node}


def _value(node: Any, name: Any, key: str, problems: list[str]) -> Any:
    if OmegaConf.is_missing(node, name):
        problems.append(f"{key}: must be set (its value is ???); write {key}=... or set it in YAML")
        return UNRESOLVED
    try:
        child = node[name]
    except InterpolationToMissingValueError:
        return UNRESOLVED
    except (OmegaConfBaseException, RecursionError) as error:
        problems.append(f"{key}: {first_line(error)}")
        return UNRESOLVED
    if isinstance(child, DictConfig):
        return _plain_dict(child, key, problems)
    if isinstance(child, ListConfig):
        return [_value(child, i, join_key(key, i), problems) for i in range(len(child))]
    return child
