"""Import a package that only some runs need, or say how to install it."""

import importlib
from types import ModuleType

from biomamba.runtime.errors import MissingDependencyError


def import_optional(module: str, purpose: str, install: str) -> ModuleType:
    """Return an optional module.

    Args:
        module: dotted name to import.
        purpose: what needs it, the subject of the error's sentence.
        install: the command that installs it.

    Raises:
        MissingDependencyError: it cannot be imported; the text names all three and the reason.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs the module {module}, which cannot be imported ({error}); "
            f"install it: {install}"
        ) from error
