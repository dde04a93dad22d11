"""Interleaved measurements of time and memory, with progress."""

import ctypes
import gc
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

# -------------------------------------------------------------------------------------------------
# The clock: seconds until the device has done its work.
# -------------------------------------------------------------------------------------------------


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


# -------------------------------------------------------------------------------------------------
# How far a series of measurements is, and how long it will take.
# -------------------------------------------------------------------------------------------------


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


# -------------------------------------------------------------------------------------------------
# Memory that work takes, what objects hold, and the end of it as an error and not as a kill.
# -------------------------------------------------------------------------------------------------

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_HIGHEST_MARK = "5"
# Objects of these packages are looked into; others may lead anywhere.
_OPEN_PACKAGES = ("biomamba.", "transformers.cache_utils")
_EXHAUSTED = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "alloc_failed")


class MemoryMeter(Protocol):
    """Tells the memory that work takes."""

    def growth(self, work: Callable[[], object]) -> int | None:
        """Return by how many bytes the memory grew at the most during work; None: not known."""
        ...


class CudaMemory:
    """What the allocator of torch handed out."""

    def growth(self, work: Callable[[], object]) -> int | None:
        """Return by how many bytes the memory grew at the most during work."""
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


class ProcessMemory:
    """The high-water mark of the process; Linux alone forgets it when asked."""

    def growth(self, work: Callable[[], object]) -> int | None:
        """Return by how many bytes the memory grew at the most during work; None: not known."""
        before = self._forget()
        work()
        return None if before is None else max(0, _status_bytes("VmHWM") - before)

    @staticmethod
    def _forget() -> int | None:
        try:
            ctypes.CDLL(None).malloc_trim(0)  # what is free does not count
            before = _status_bytes("VmRSS")
            _FORGET.write_text(_HIGHEST_MARK, encoding="ascii")
        except (OSError, AttributeError):
            return None
        return before


def memory_meter(device: torch.device) -> MemoryMeter:
    """Return the meter of a device."""
    return CudaMemory() if device.type == "cuda" else ProcessMemory()


def held_bytes(*held: object) -> int:
    """Count the bytes of all tensors in objects, those that share memory once."""
    storages: dict[int, int] = {}
    for tensor in _tensors(held, set()):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _tensors(found: object, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
        if found.grad is not None:
            yield found.grad
        return
    if id(found) in seen:
        return
    seen.add(id(found))
    for part in _parts(found):
        yield from _tensors(part, seen)


def _parts(found: object) -> list[object]:
    if isinstance(found, Mapping):
        return list(found.values())
    if isinstance(found, list | tuple | set):
        return list(found)
    if isinstance(found, nn.Module):
        return [*found.parameters(), *found.buffers()]
    if type(found).__module__.startswith(_OPEN_PACKAGES):
        return list(getattr(found, "__dict__", {}).values())
    return []


def exhausted(error: BaseException) -> str | None:
    """Return the words of an error that says that memory has run out; None for other errors."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return text
    is_allocation = any(words in text.lower() for words in _EXHAUSTED)
    return text if isinstance(error, RuntimeError) and is_allocation else None


@contextmanager
def memory_limit(num_bytes: int, device: torch.device) -> Iterator[None]:
    """Let work fail that asks for more memory, where the system would end the process.

    On a CPU the limit is for what the process asks for, on a GPU for the allocator of torch.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, num_bytes / total))
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bounds = [bound for bound in (num_bytes, soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextmanager
def quick_collection() -> Iterator[None]:
    """Let the collector pass over what is there already, which takes it most of its time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release(device: torch.device) -> None:
    """Give back memory that nothing holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _status_bytes(key: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return 1024 * int(value.split()[0])
    raise OSError(f"{_STATUS} has no {key}")


# -------------------------------------------------------------------------------------------------
# Measure tasks in turn, so that a machine that slows down slows all of them down.
# -------------------------------------------------------------------------------------------------


class Task(Protocol):
    """Work that can be done again and again."""

    def prepare(self) -> None:
        """Get ready for the next run; is not measured."""
        ...

    def run(self) -> None:
        """Do the work."""
        ...

    def held_bytes(self) -> int:
        """Count the bytes that are in memory between two runs."""
        ...


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a task took.

    Attributes:
        seconds: Of every repeat; none if memory ran out.
        held_bytes: Weights, states and caches, between two runs.
        growth_bytes: What came on top at the most; None if this system does not tell.
        failure: The words of the error if memory ran out.
    """

    seconds: Sequence[float] = ()
    held_bytes: int | None = None
    growth_bytes: int | None = None
    failure: str | None = None


def take_turns(
    tasks: Mapping[str, Task], repeats: int, warmup: int, clock: Clock, memory: MemoryMeter
) -> dict[str, Taken]:
    """Run every task `warmup` times, and then all of them in turn, `repeats` times.

    A task that runs out of memory takes no further part.
    """
    failures: dict[str, str] = {}
    growth: dict[str, int | None] = {}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for name, task in tasks.items():
        failure = _warm_up(task, warmup, memory, growth, name)
        if failure is not None:
            failures[name] = failure
    for _ in range(repeats):
        for name, task in tasks.items():
            if name in failures:
                continue
            try:
                seconds[name].append(_seconds(task, clock))
            except (RuntimeError, MemoryError) as error:
                failures[name] = _reason(error)
    return {
        name: Taken(failure=failures[name])
        if name in failures
        else Taken(seconds=seconds[name], held_bytes=task.held_bytes(), growth_bytes=growth[name])
        for name, task in tasks.items()
    }


def _warm_up(
    task: Task, warmup: int, memory: MemoryMeter, growth: dict[str, int | None], name: str
) -> str | None:
    try:
        for _ in range(warmup):
            task.prepare()
            growth[name] = memory.growth(task.run)
    except (RuntimeError, MemoryError) as error:
        return _reason(error)
    return None


def _seconds(task: Task, clock: Clock) -> float:
    task.prepare()
    begin = clock.now()
    task.run()
    return clock.now() - begin


def _reason(error: RuntimeError | MemoryError) -> str:
    """Return the words of an error of memory; any other one is a defect and continues."""
    reason = exhausted(error)
    if reason is None:
        raise error
    return reason
