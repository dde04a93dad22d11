"""A composed config as plain values, and whether a value fits the annotation of its parameter."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from biomamba.config.messages import first_line, unknown_name
from biomamba.runtime.errors import BioMambaError, DataError

# -------------------------------------------------------------------------------------------------
# Turn a composed config into plain values, collecting what is missing or cannot be resolved.
# -------------------------------------------------------------------------------------------------


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


# -------------------------------------------------------------------------------------------------
# Whether a value of a config file fits the annotation of the parameter that will take it.
#
# Only what YAML can spell is judged: scalars, lists, dicts and None. An annotation that is not
# understood accepts everything; the constructor then has the last word.
# -------------------------------------------------------------------------------------------------

R = TypeVar("R")
# An int is a valid float in YAML (`lr: 1`), a bool is not a valid int.
_SCALARS: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    bool: (bool,),
    str: (str,),
    type(None): (type(None),),
}
_LISTS = (list, tuple, Sequence, Iterable)
_DICTS = (dict, Mapping)


def parameter_hints(target: Any) -> dict[str, Any]:
    """Return the annotations of a class's or function's parameters; none if they do not resolve."""
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Say whether a plain value may be passed where `hint` is annotated."""
    if isinstance(value, Unresolved) or _is_node(value) or hint is Any:
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is typing.Literal:
        return any(type(value) is type(option) and value == option for option in arguments)
    return _container_or_class_fits(value, origin or hint, arguments)


def describe(hint: Any) -> str:
    """Return an annotation as a user would write it."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def _container_or_class_fits(value: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    if origin in _LISTS:
        return _list_fits(value, origin, arguments)
    if origin in _DICTS:
        return _dict_fits(value, arguments)
    return _class_fits(value, origin)


def _list_fits(value: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    if not isinstance(value, list):
        return False
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        pairs = zip(value, arguments, strict=False)
        return len(value) == len(arguments) and all(fits(item, hint) for item, hint in pairs)
    return not arguments or all(fits(item, arguments[0]) for item in value)


def _dict_fits(value: Any, arguments: tuple[Any, ...]) -> bool:
    if not isinstance(value, dict):
        return False
    return len(arguments) != 2 or all(fits(item, arguments[1]) for item in value.values())


def _class_fits(value: Any, hint: Any) -> bool:
    if hint in _SCALARS:
        return type(value) in _SCALARS[hint]
    # A class of this project is built by a nested `_target_` node, never from a scalar.
    is_own = isinstance(hint, type) and hint.__module__.startswith("biomamba.")
    if getattr(hint, "_is_protocol", False):  # isinstance would refuse to answer
        return False
    return not is_own or isinstance(value, hint)


def build_record(
    cls: type[R],
    values: Mapping[str, Any],
    where: object,
    error: type[BioMambaError] = DataError,
) -> R:
    """Build a record class from values that a file holds, each of the type of its field.

    Raises:
        BioMambaError: Of class `error`: a field is missing, unknown or of another type. The text
            names `where` and the field, and shows no value.
    """
    for name, hint in parameter_hints(cls).items():
        if name in values and not fits(values[name], hint):
            raise error(
                f"{where}: {name} must be {describe(hint)}, found {type(values[name]).__name__}"
            )
    try:
        return cls(**values)
    except (TypeError, ValueError) as problem:
        raise error(f"{where}: {str(problem).removeprefix(f'{cls.__name__}.')}") from problem
