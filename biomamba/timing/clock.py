"""The clock: seconds until the device has done its work."""

import time
from typing import Protocol

import torch


class Clock(Protocol):
    """Tells the time in seconds."""

    def now(self) -> float:
        """Return the seconds since some moment, when everything asked for so far is done."""
        ...


class DeviceClock:
    """The wall clock; a GPU is waited for."""

    def __init__(self, device: torch.device) -> None:
        self._waits = device.type == "cuda"

    def now(self) -> float:
        """Return the seconds since some moment, when everything asked for so far is done."""
        if self._waits:
            torch.cuda.synchronize()
        return time.perf_counter()
