"""Import what a `_target_` names and judge the arguments that the config gives to it."""

import inspect
from collections.abc import Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object

from biomamba.config.annotations import describe, fits, parameter_hints
from biomamba.config.wording import unknown_name

# A config may build objects of these packages only, so that a file from elsewhere cannot run
# os.system or torch.load. Further libraries are wrapped by a class of this project.
ALLOWED_PACKAGES = ("biomamba", "torch.optim", "torch.nn", "lightning", "torchmetrics")
RESERVED_KEYS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class TargetError(Exception):
    """A `_target_` cannot be used; the text says why."""


def load_target(name: object) -> Any:
    """Return the class or function of a dotted name.

    Raises:
        TargetError: the name is not of an allowed package or cannot be imported.
    """
    if not isinstance(name, str) or not _is_allowed(name):
        raise TargetError(_refusal(name))
    try:
        target = get_object(name)
    except (ImportError, AttributeError, ValueError, InstantiationException) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        raise TargetError(f"cannot import {name}: {reason}") from error
    # The object may come from elsewhere although its path starts well (biomamba.x.os.system).
    if not callable(target) or not _is_allowed(f"{getattr(target, '__module__', '')}.x"):
        raise TargetError(_refusal(name))
    return target


def call_problems(target: Any, node: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the arguments of one node, nested nodes left aside."""
    name = node["_target_"]
    given = {key: value for key, value in node.items() if key not in RESERVED_KEYS}
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:
        return
    named = [p for p in parameters.values() if p.kind in _NAMED]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    accepted = [p.name for p in named]
    if not takes_any:
        for key in sorted(given.keys() - set(accepted)):
            yield f"{unknown_name('key', key, accepted)} (parameters of {name})"
    if not node.get("_partial_") and not node.get("_args_"):
        for parameter in named:
            if parameter.default is parameter.empty and parameter.name not in given:
                yield f"key '{parameter.name}' is missing; {name} needs it"
    yield from _type_problems(target, given)


def parameter_names(node: Any) -> list[str]:
    """Return the names that a node's target accepts; none if it is no usable node."""
    try:
        target = load_target(node["_target_"])
        return [p.name for p in inspect.signature(target).parameters.values() if p.kind in _NAMED]
    except (TargetError, ValueError, KeyError, TypeError):
        return []


def _type_problems(target: Any, given: dict[str, Any]) -> Iterator[str]:
    hints = parameter_hints(target)
    for key, value in given.items():
        if key in hints and not fits(value, hints[key]):
            found = f"{type(value).__name__} {value!r}"
            yield f"key '{key}' must be {describe(hints[key])}, found {found}"


def _is_allowed(name: str) -> bool:
    return any(name.startswith(f"{package}.") for package in ALLOWED_PACKAGES)


def _refusal(name: object) -> str:
    return (
        f"_target_ must name a class or function of {', '.join(ALLOWED_PACKAGES)}, found {name!r}"
    )
