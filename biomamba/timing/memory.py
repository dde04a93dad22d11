"""Memory that work takes, what objects hold, and the end of it as an error and not as a kill."""

import ctypes
import gc
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

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
