"""How far a series of measurements is, and how long it will take."""

from collections.abc import Callable
from datetime import timedelta


class Progress:
    """Counts what is done in tokens and estimates the rest from the rate so far.

    Long rows come last and cost more per token where time grows faster than length: the first
    estimates are then too short.
    """

    def __init__(self, amounts: list[int], now: Callable[[], float]) -> None:
        self._left, self._now = sum(amounts), now
        self._done, self._begin = 0, now()

    def advance(self, amount: int) -> None:
        """Count a part as done."""
        self._done += amount
        self._left -= amount

    @property
    def remaining_seconds(self) -> float | None:
        """The time that is left at the rate so far; None before anything was done."""
        if not self._done:
            return None
        return (self._now() - self._begin) * self._left / self._done

    def text(self) -> str:
        """Return the time that is left in words."""
        seconds = self.remaining_seconds
        if seconds is None:
            return "the time left is not known yet"
        return f"about {timedelta(seconds=round(seconds))} left"
