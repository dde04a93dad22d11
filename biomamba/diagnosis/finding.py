"""What a check has found, and what to do about it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a finding counts."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        topic: What was looked at.
        state: `ok` needs nothing; a `warning` works, but not as it could; a `problem` would stop or
            spoil a run.
        text: What was found.
        remedy: What to do; empty exactly if the state is ok.
    """

    topic: str
    state: State
    text: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if (self.state == State.OK) == bool(self.remedy):
            raise ValueError(f"{self.topic}: a remedy belongs to what is not ok, and only to it")


Check = Callable[[], Iterable[Finding]]


def ok(topic: str, text: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(topic, State.OK, text)


def warning(topic: str, text: str, remedy: str) -> Finding:
    """Return a finding that works, but not as it could."""
    return Finding(topic, State.WARNING, text, remedy)


def problem(topic: str, text: str, remedy: str) -> Finding:
    """Return a finding that would stop or spoil a run."""
    return Finding(topic, State.PROBLEM, text, remedy)


def run_checks(checks: Sequence[tuple[str, Check]]) -> list[Finding]:
    """Return the findings of all checks; one that fails is a problem, and the others go on."""
    return [finding for topic, check in checks for finding in _guarded(topic, check)]


def _guarded(topic: str, check: Check) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # noqa: BLE001 - a report must come out on any machine
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return [problem(topic, f"could not be checked ({what})", "mend what the error names")]


def worst(findings: Iterable[Finding]) -> State:
    """Return the worst state; ok if there are none."""
    order = list(State)
    return max((finding.state for finding in findings), key=order.index, default=State.OK)
