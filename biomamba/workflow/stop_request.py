"""Signals that ask a chain to stop; they do nothing but count."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """What has been asked so far.

    Attributes:
        count: How many signals came.
        name: Of the first; empty without one.
    """

    def __init__(self) -> None:
        self.count = 0
        self.name = ""

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Count a signal."""
        self.count += 1
        self.name = self.name or signal.Signals(number).name


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Take signals as requests to stop; afterwards they have their earlier effect."""
    request = StopRequest()
    earlier: dict[int, Any] = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
