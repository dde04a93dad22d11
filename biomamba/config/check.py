"""Check a composed config before anything is built, and report every problem at once.

Every `_target_` must be on the list of its group (see safety.py). Each node is compared with the
signature of its target: unknown and missing keys, types, missing values, interpolations. Value
objects (frozen dataclasses made of nothing but values) are built on trial, so that their own rules
are part of the report. Numbers are finite and fit into 64 bits, and seeds into 32, wherever they
be: parameters of other libraries have no rules of their own that say so.
"""

import math
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from biomamba.config.annotations import UNRESOLVED, Unresolved, join_key, plain_tree
from biomamba.config.messages import first_line, report, unknown_name
from biomamba.config.safety import (
    TARGET,
    TargetError,
    call_problems,
    is_value_object,
    load_target,
    name_problems,
)
from biomamba.config.schema import number_bounds
from biomamba.runtime.errors import BioMambaError, ConfigError
from biomamba.runtime.numbers import MAX_SEED, MAX_WHOLE, check_whole


def check_config(cfg: DictConfig) -> None:
    """Raise one ConfigError that lists every problem of a composed config by dotted key."""
    problems = config_problems(cfg)
    if problems:
        raise ConfigError(report("the configuration", problems))


def config_problems(cfg: DictConfig) -> list[str]:
    """Return one line per problem, each beginning with the dotted key; none if it can be built."""
    tree, problems = plain_tree(cfg)
    problems += name_problems(tree)
    bounds = number_bounds(OmegaConf.get_type(cfg))
    checker = _Checker(problems)
    for name, child in tree.items():
        value = checker.visit(child, name)
        if name in bounds and not isinstance(value, Unresolved):
            checker.check_bounds(name, value, bounds[name])
    return checker.problems


def node_problems(node: DictConfig, key: str) -> list[str]:
    """Return the problems of one node of a config, which is at the dotted key."""
    tree, problems = plain_tree(node, key)
    checker = _Checker(problems)
    checker.visit(tree, key)
    return checker.problems


class _Checker:
    """Walks the plain tree from the leaves up; a node with problems is opaque to its parent."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems

    def visit(self, node: Any, key: str) -> Any:
        """Return the value of a subtree, or UNRESOLVED where it is not to be built here."""
        if isinstance(node, list):
            return _all_or_nothing([self.visit(v, join_key(key, i)) for i, v in enumerate(node)])
        if not isinstance(node, dict):
            return self._visit_leaf(node, key)
        self._check_underscores(node, key)
        children = {name: self.visit(value, join_key(key, name)) for name, value in node.items()}
        if TARGET not in node:
            return _all_or_nothing(children)
        return self._visit_target(node, children, key)

    def check_bounds(self, key: str, value: Any, bounds: Mapping[str, Any]) -> None:
        """Report a number of the top level that its schema does not allow."""
        try:
            check_whole(key, value, **bounds)
        except ConfigError as error:
            self._add(key, str(error).removeprefix(f"{key} "))

    def _visit_leaf(self, value: Any, key: str) -> Any:
        """Report what no parameter takes: NaN, infinity, more than 64 bits, a seed of more."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if not math.isfinite(value):
            self._add(key, f"must be a finite number, found {value}")
        elif abs(value) > MAX_WHOLE and isinstance(value, int):
            self._add(key, f"must fit into 64 bits, found {value}")
        elif key.rpartition(".")[2] == "seed" and not _is_seed(value):
            self._add(key, f"must be a whole number from 0 to {MAX_SEED}, found {value}")
        else:
            return value
        return UNRESOLVED

    def _check_underscores(self, node: dict[str, Any], key: str) -> None:
        for name in node:
            if name.startswith("_") and name != TARGET:
                self._add(key, unknown_name("key", name, [TARGET]))

    def _visit_target(self, node: dict[str, Any], children: dict[str, Any], key: str) -> Any:
        if isinstance(node[TARGET], Unresolved):
            return UNRESOLVED
        try:
            target = load_target(node[TARGET], key)
        except TargetError as error:
            self._add(key, str(error))
            return UNRESOLVED
        found = list(call_problems(target, node))
        is_plain_call = not any(name.startswith("_") and name != TARGET for name in node)
        for problem in found:
            self._add(key, problem)
        is_ready = (
            is_plain_call and not found and not isinstance(_all_or_nothing(children), Unresolved)
        )
        if not is_ready or not is_value_object(target):
            return UNRESOLVED
        return self._build(target, children, key)

    def _build(self, target: Any, children: dict[str, Any], key: str) -> Any:
        arguments = {name: v for name, v in children.items() if name != TARGET}
        try:
            return target(**arguments)
        except (BioMambaError, ValueError, TypeError) as error:
            self._add(key, str(error))
            return UNRESOLVED

    def _add(self, key: str, problem: str) -> None:
        self.problems.append(f"{key}: {problem}")


def _is_seed(value: float) -> bool:
    return isinstance(value, int) and 0 <= value <= MAX_SEED


def _all_or_nothing(children: Any) -> Any:
    values = children.values() if isinstance(children, dict) else children
    return UNRESOLVED if any(isinstance(v, Unresolved) for v in values) else children


# -------------------------------------------------------------------------------------------------
# Build the object that a config node describes, with errors that name the node.
# -------------------------------------------------------------------------------------------------


def build(node: Any, /, **extra: Any) -> Any:
    """Build a `_target_` node; None stays None, a dict or list of nodes becomes one of objects.

    Constructors receive plain dicts and lists. Every `_target_` must be on the list of the group
    that its dotted key starts with (biomamba/config/safety.py), whoever checked the node before:
    Hydra's own `instantiate` calls whatever a node names. `extra` holds keyword arguments known
    only at run time; they win over the node's own.

    Raises:
        ConfigError: A constructor raised ValueError, or a `_target_` is not allowed.
        BioMambaError: A constructor raised this error; the dotted key is put before its text.
        Exception: Anything else a constructor raised is a defect and comes out unchanged.
    """
    if node is None:
        return None
    key = ""
    if OmegaConf.is_config(node):
        # The key of a node of its own, as tests make them, starts with the name of no group.
        key = str(node._get_full_key(None) or "")
        try:
            node = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{key}: {first_line(error)}" if key else str(error)) from error
    return _built(node, key, extra)


def _built(node: Any, key: str, extra: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_built(child, join_key(key, number), {}) for number, child in enumerate(node)]
    if not isinstance(node, dict):
        return node
    target = _target_of(node, key)
    values = {
        name: _built(child, join_key(key, name), {})
        for name, child in node.items()
        if name != TARGET and name not in extra
    } | extra
    if target is None:
        return values
    try:
        return target(**values)
    except BioMambaError as error:
        raise type(error)(f"{key}: {error}" if key else str(error)) from error
    except ValueError as error:
        raise ConfigError(f"{key}: {error}" if key else str(error)) from error


def _target_of(node: dict[str, Any], key: str) -> Any:
    """Return what a node builds; None if it is a plain mapping."""
    if TARGET not in node:
        return None
    try:
        for name in node:
            if str(name).startswith("_") and name != TARGET:
                raise TargetError(unknown_name("key", str(name), [TARGET]))
        return load_target(node[TARGET], key)
    except TargetError as error:
        raise ConfigError(f"{key}: {error}" if key else str(error)) from error
