"""Check a composed config before anything is built, and report every problem at once.

Hydra itself looks at a `_target_` node only when it is built, one at a time, and at a partial
only when it is called. Here each node is compared with the signature of its target: unknown and
missing keys, types, missing values, interpolations. Value objects (frozen dataclasses made of
nothing but values) are built on trial, so that their own rules are part of the report.
"""

import dataclasses
from typing import Any

from omegaconf import DictConfig

from biomamba.config.targets import RESERVED_KEYS, TargetError, call_problems, load_target
from biomamba.config.tree import UNRESOLVED, Unresolved, join_key, plain_tree
from biomamba.config.wording import report, unknown_name
from biomamba.runtime.errors import BioMambaError, ConfigError


def check_config(cfg: DictConfig) -> None:
    """Raise one ConfigError that lists every problem of a composed config by dotted key."""
    problems = config_problems(cfg)
    if problems:
        raise ConfigError(report("the configuration", problems))


def config_problems(cfg: DictConfig) -> list[str]:
    """Return one line per problem, each beginning with the dotted key; none if it can be built."""
    tree, problems = plain_tree(cfg)
    checker = _Checker(problems)
    for name, child in tree.items():
        checker.visit(child, name)
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
            return node
        self._check_underscores(node, key)
        children = {name: self.visit(value, join_key(key, name)) for name, value in node.items()}
        if "_target_" not in node:
            return _all_or_nothing(children)
        return self._visit_target(node, children, key)

    def _check_underscores(self, node: dict[str, Any], key: str) -> None:
        for name in node:
            if name.startswith("_") and name not in RESERVED_KEYS:
                self._add(key, unknown_name("key", name, RESERVED_KEYS))

    def _visit_target(self, node: dict[str, Any], children: dict[str, Any], key: str) -> Any:
        if isinstance(node["_target_"], Unresolved):
            return UNRESOLVED
        try:
            target = load_target(node["_target_"])
        except TargetError as error:
            self._add(key, str(error))
            return UNRESOLVED
        found = list(call_problems(target, node))
        for problem in found:
            self._add(key, problem)
        is_ready = not found and not isinstance(_all_or_nothing(children), Unresolved)
        if not is_ready or not _is_value_object(target) or set(RESERVED_KEYS[1:3]) & node.keys():
            return UNRESOLVED
        return self._build(target, children, key)

    def _build(self, target: Any, children: dict[str, Any], key: str) -> Any:
        arguments = {name: v for name, v in children.items() if name not in RESERVED_KEYS}
        try:
            return target(**arguments)
        except (BioMambaError, ValueError, TypeError) as error:
            self._add(key, str(error))
            return UNRESOLVED

    def _add(self, key: str, problem: str) -> None:
        self.problems.append(f"{key}: {problem}")


def _is_value_object(target: Any) -> bool:
    parameters = getattr(target, "__dataclass_params__", None)
    return dataclasses.is_dataclass(target) and bool(getattr(parameters, "frozen", False))


def _all_or_nothing(children: Any) -> Any:
    values = children.values() if isinstance(children, dict) else children
    return UNRESOLVED if any(isinstance(v, Unresolved) for v in values) else children
