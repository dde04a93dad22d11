"""Processor, memory and GPUs of this machine."""

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from biomamba.diagnosis.finding import Finding, ok, problem, warning
from biomamba.planning.hardware import GIB, main_memory_bytes
from biomamba.runtime.provenance import cpu_model

# What products of the CPU can use, best last.
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16")
_MIN_MEMORY_GIB, _MIN_SHARED_GIB = 4, 1


def check_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Iterator[Finding]:
    """Tell the processor, its cores and what speeds up its products."""
    flags = cpu_flags(cpuinfo)
    found = [name for name in _FEATURES if name in flags]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    has_bf16 = {"avx512_bf16", "amx_bf16", "bf16"} & set(found)
    bf16 = "bf16 products in hardware" if has_bf16 else "no bf16 products in hardware"
    features = ", ".join(found) or platform.machine()
    yield ok("processor", f"{cpu_model()}, {cores} cores for this process; {features}: {bf16}")
    threads = torch.get_num_threads()
    if cores and threads > cores:
        yield warning(
            "threads",
            f"torch uses {threads} threads on {cores} cores",
            f"export OMP_NUM_THREADS={cores}",
        )
    else:
        yield ok("threads", f"torch uses {threads} of {cores} cores")


def cpu_flags(cpuinfo: Path) -> set[str]:
    """Return the features that the kernel names; none where it does not."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    pairs = (line.partition(":") for line in lines)
    return next(
        (set(value.split()) for key, _, value in pairs if key.strip() in ("flags", "Features")),
        set(),
    )


def check_memory(shared: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Tell main memory, and the shared memory that data workers need."""
    total = main_memory_bytes() / GIB
    if total < _MIN_MEMORY_GIB:
        yield warning(
            "memory",
            f"{total:.1f} GiB of main memory",
            "train models of some million parameters only, or take another machine",
        )
    else:
        yield ok("memory", f"{total:.1f} GiB of main memory")
    if not shared.is_dir():
        return
    size = shutil.disk_usage(shared).total / GIB
    if size < _MIN_SHARED_GIB:
        yield warning(
            "shared memory",
            f"{shared} has {size:.2f} GiB, and data workers pass batches through it",
            "start the container with --shm-size=2g, or set data.num_workers=0",
        )
    else:
        yield ok("shared memory", f"{shared} has {size:.1f} GiB")


def check_gpus() -> Iterator[Finding]:
    """Tell the GPUs, and whether this torch can use them."""
    if not torch.cuda.is_available():
        yield _no_gpu()
        return
    supported = torch.cuda.get_arch_list()
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        capability = f"{found.major}.{found.minor}"
        text = f"{found.name}, compute capability {capability}, {found.total_memory / GIB:.0f} GiB"
        if torch.version.cuda and not _runs_on(supported, found.major, found.minor):
            yield problem(
                f"gpu {number}",
                f"{text}: this torch has no code for it (only {', '.join(supported)})",
                'pip install -c constraints/v100.txt ".[dev]" (a torch built for older cards)',
            )
        else:
            yield ok(f"gpu {number}", text)


def _no_gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return ok("gpu", "none: runs use the CPU")
    if torch.version.cuda is None:
        return warning(
            "gpu",
            f"nvidia-smi is there, but torch {torch.__version__} is built without CUDA",
            'pip install -c constraints/cuda.txt ".[dev]"',
        )
    return problem(
        "gpu",
        f"nvidia-smi is there, but torch {torch.__version__} finds no GPU",
        "run nvidia-smi, look at CUDA_VISIBLE_DEVICES, and update the driver for CUDA "
        f"{torch.version.cuda}",
    )


def _runs_on(supported: list[str], major: int, minor: int) -> bool:
    """Say whether code for this capability, an earlier minor one or PTX of any is there."""
    exact = {f"sm_{major}{lower}" for lower in range(minor + 1)}
    portable = [int(name.removeprefix("compute_")) for name in supported if "compute_" in name]
    is_portable = any(number <= 10 * major + minor for number in portable)
    return bool(exact & {name.rstrip("a") for name in supported}) or is_portable
