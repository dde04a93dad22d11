"""How a configuration problem is worded, so that every part of the check speaks alike."""

import difflib
from collections.abc import Callable, Iterable

from biomamba.runtime.errors import BioMambaError, ConfigError


def unknown_name(kind: str, name: str, accepted: Iterable[str]) -> str:
    """Say that a name is not accepted, which one it resembles and which ones there are."""
    names = sorted(set(accepted))
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    return f"unknown {kind} '{name}'{hint}; accepted: {', '.join(names) or 'none'}"


def report(title: str, problems: Iterable[str]) -> str:
    """Write one line per problem below a line that counts them."""
    lines = list(problems)
    noun = "problem" if len(lines) == 1 else "problems"
    return "\n  ".join([f"{len(lines)} {noun} in {title}:", *lines])


def check_all(title: str, checks: Iterable[Callable[[], object]]) -> None:
    """Run every check, and raise what they found together.

    Raises:
        BioMambaError: What one check raised; a ConfigError with a line for each where several did.
    """
    found: list[BioMambaError] = []
    for check in checks:
        try:
            check()
        except BioMambaError as error:
            found.append(error)
    if len(found) == 1:
        raise found[0]
    if found:
        raise ConfigError(report(title, map(str, found)))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
