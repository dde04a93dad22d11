"""Signals that ask a chain to stop; they do nothing but count."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from biomamba.runtime import signals

_SAME_SECONDS = 0.2


class StopRequest:
    """What has been asked so far.

    Attributes:
        count: How many signals came.
        name: Of the first; empty without one.
        number: Of the first; 0 without one.
    """

    def __init__(self) -> None:
        self.count = 0
        self.name = ""
        self.number = 0
        self._times: dict[int, float] = {}

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Count a signal; the same at once again was forwarded by another program."""
        now, earlier = time.monotonic(), self._times.get(number)
        self._times[number] = now
        if earlier is not None and now - earlier < _SAME_SECONDS:
            return
        self.count += 1
        self.number = self.number or number
        self.name = self.name or signal.Signals(number).name


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Take signals as requests to stop; afterwards they have their earlier effect.

    SIGHUP and SIGINT stay ignored where they are, as under nohup.
    """
    request = StopRequest()
    earlier: dict[int, Any] = {
        number: signal.signal(number, request)
        for number in signals.SIGNALS
        if number not in signals.BY_HAND or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
