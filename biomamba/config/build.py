"""Build the object that a config node describes, with errors that name the node."""

from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from biomamba.config.targets import TARGET, TargetError, load_target
from biomamba.config.tree import join_key
from biomamba.config.wording import first_line, unknown_name
from biomamba.runtime.errors import BioMambaError, ConfigError


def build(node: Any, /, **extra: Any) -> Any:
    """Build a `_target_` node; None stays None, a dict or list of nodes becomes one of objects.

    Constructors receive plain dicts and lists. Every `_target_` must be on the list of the group
    that its dotted key begins with (biomamba/config/targets.py), whoever checked the node before:
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
        # The key of a node of its own, as tests make them, begins with the name of no group.
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
