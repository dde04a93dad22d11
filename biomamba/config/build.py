"""Build the object that a config node describes, with errors that name the node."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from biomamba.runtime.errors import BioMambaError, ConfigError


def build(node: Any, **extra: Any) -> Any:
    """Build a `_target_` node; None stays None, a dict or list of nodes becomes one of objects.

    Constructors receive plain dicts and lists. `extra` holds keyword arguments known only at run
    time; they win over the node's own.

    Raises:
        ConfigError: a constructor raised ValueError, or Hydra refused the node.
        BioMambaError: a constructor raised this error; the dotted key is put before its text.
        Exception: anything else a constructor raised is a defect and comes out unchanged.
    """
    if node is None:
        return None
    try:
        return instantiate(node, **extra, _convert_="all")
    except InstantiationException as error:
        _raise_original(error)


def _raise_original(error: InstantiationException) -> None:
    cause = error.__cause__
    lines = str(error).splitlines()
    key = next((line.removeprefix("full_key: ") for line in lines if "full_key: " in line), "")
    prefix = f"{key}: " if key else ""
    if isinstance(cause, BioMambaError):
        raise type(cause)(f"{prefix}{cause}") from cause
    if cause is None or isinstance(cause, ValueError):
        raise ConfigError(f"{prefix}{cause or lines[0]}") from cause
    raise cause
