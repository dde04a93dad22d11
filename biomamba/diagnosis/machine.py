"""The machine: processor, memory, GPUs, SLURM programs, versions and kernels."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from biomamba.model.backends.auto import AutoScan
from biomamba.model.backends.fused import INSTALL, FusedScan
from biomamba.planning.hardware import GIB, main_memory_bytes
from biomamba.runtime import slurm
from biomamba.runtime.errors import MissingDependencyError
from biomamba.runtime.provenance import CHECKOUT, cpu_model

# -------------------------------------------------------------------------------------------------
# What a check has found, and what to do about it.
# -------------------------------------------------------------------------------------------------


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
    """Return the findings of all checks; one that fails is a problem, and the others continue."""
    return [finding for topic, check in checks for finding in _guarded(topic, check)]


def _guarded(topic: str, check: Check) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # noqa: BLE001 - a report must come out on any machine
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return [problem(topic, f"could not be checked ({what})", "fix what the error names")]


def worst(findings: Iterable[Finding]) -> State:
    """Return the worst state; ok if there are none."""
    order = list(State)
    return max((finding.state for finding in findings), key=order.index, default=State.OK)


# -------------------------------------------------------------------------------------------------
# Processor, memory and GPUs of this machine.
# -------------------------------------------------------------------------------------------------

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


# -------------------------------------------------------------------------------------------------
# The programs of SLURM.
# -------------------------------------------------------------------------------------------------

_PROGRAMS = ("sbatch", "srun", "scontrol", "squeue")
_TIMEOUT_SECONDS = 5


def check_slurm() -> Iterator[Finding]:
    """Tell which programs of SLURM are there, and their version."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if len(missing) == len(_PROGRAMS):
        yield ok("slurm", "none here: start runs with python or torchrun")
        return
    if missing:
        yield warning(
            "slurm",
            f"{', '.join(missing)} cannot be found",
            "install slurm-client, or bind its programs into the container: a run needs scontrol "
            "to put itself back into the queue",
        )
    else:
        yield from _answer()


def _answer() -> Iterator[Finding]:
    is_there, version = _output("sbatch", "--version")
    if not is_there:
        yield warning(
            "slurm",
            f"sbatch fails: {version}",
            "submit from a node that is set up for it, or fix what the error names",
        )
        return
    job = slurm.job_id()
    where = f", inside job {job}" if job else ""
    is_up, text = _output("scontrol", "ping")
    if is_up:
        yield ok("slurm", f"{version}{where}; the controller answers")
    else:
        yield warning(
            "slurm",
            f"{version}{where}, but the controller does not answer: {text}",
            "run scontrol ping; look at SLURM_CONF and munge",
        )


def _output(*command: str) -> tuple[bool, str]:
    """Return whether a program succeeds, and the first line of what it says."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return False, type(error).__name__
    lines = (done.stdout + done.stderr).strip().splitlines()
    return done.returncode == 0, lines[0] if lines else "it says nothing"


# -------------------------------------------------------------------------------------------------
# Versions against those that the code was tried with, and the optional kernels.
# -------------------------------------------------------------------------------------------------

_PACKAGES = (
    *("torch", "lightning", "transformers", "hydra-core", "omegaconf", "numpy"),
    *("tokenizers", "datasets", "safetensors", "huggingface-hub", "tensorboard"),
)
_OPTIONAL = {"transformers": "only other models and the tests need it"}
_MIN_PYTHON = (3, 11)
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;#]+)")


def check_versions(constraints: Path = CHECKOUT / "constraints") -> Iterator[Finding]:
    """Compare the installed packages with the pins that the tests run with."""
    if sys.version_info[:2] < _MIN_PYTHON:
        yield warning("python", platform.python_version(), "use Python 3.11 or newer")
    else:
        yield ok("python", platform.python_version())
    file = constraints / constraints_name()
    pins = read_pins(file)
    for package in _PACKAGES:
        yield _compare(package, pins.get(package), file)


def _compare(package: str, pinned: str | None, file: Path) -> Finding:
    install = f'pip install -c constraints/{file.name} ".[dev]"'
    try:
        found = version(package)
    except PackageNotFoundError:
        if package in _OPTIONAL:
            return ok(package, f"not installed; {_OPTIONAL[package]}")
        return warning(package, "not installed", install)
    if pinned is None:
        return ok(package, f"{found}; not pinned" if file.is_file() else f"{found}; no pins here")
    if found.split("+")[0] == pinned.split("+")[0]:
        return ok(package, f"{found}, as pinned in constraints/{file.name}")
    return warning(package, f"{found}, but {pinned} is what the tests run with", install)


def constraints_name() -> str:
    """Return the constraints of this kind of machine."""
    if not torch.cuda.is_available():
        return "cpu.txt"
    return "v100.txt" if torch.cuda.get_device_capability() < (8, 0) else "cuda.txt"


def read_pins(file: Path) -> Mapping[str, str]:
    """Return package to version, with the files that it includes; nothing where there is none."""
    if not file.is_file():
        return {}
    pins: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("-c "):
            pins |= read_pins(file.parent / line.removeprefix("-c ").strip())
        elif match := _PIN.match(line):
            pins[match[1].lower().replace("_", "-")] = match[2]
    return pins


def check_kernels() -> Iterator[Finding]:
    """Say whether the fused kernels can be imported, where they would be used."""
    try:
        fused = FusedScan()
    except MissingDependencyError as error:
        reason = str(error).split(";", maxsplit=1)[0]
        yield _unfused(reason)
    except Exception as error:  # noqa: BLE001 - kernels of another torch fail in any way
        yield _unfused(f"mamba-ssm is there but fails: {type(error).__name__}: {error}")
    else:
        if fused.has_convolution:
            yield ok("kernels", "mamba-ssm and causal-conv1d can be imported")
        else:
            yield warning(
                "kernels", "mamba-ssm without causal-conv1d: only the scan is fused", INSTALL
            )


def _unfused(reason: str) -> Finding:
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return ok("kernels", f"none, and none are needed without an NVIDIA GPU ({reason})")
    if torch.cuda.get_device_capability() < (8, 0):
        return ok("kernels", f"none, and this GPU could not use them well ({reason})")
    return warning("kernels", f"{reason}: the slower backend=chunked computes", INSTALL)


def check_choice(precision: str, device: torch.device, dtype: torch.dtype) -> Iterator[Finding]:
    """Say what computes a run here and why, as backend=auto decides it."""
    choice = AutoScan().choice(device, dtype)
    yield ok("backend", f"{choice.backend.name}: {choice.reason}")
    if precision == "bf16-mixed" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        yield warning(
            "precision", "bf16-mixed without hardware for it", "set trainer.precision=16-mixed"
        )
    else:
        yield ok("precision", f"{precision}: {_why(precision)}")


def usual_precision() -> str:
    """Return the precision for this machine: bf16 from compute capability 8.0 on, else fp16."""
    if not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "16-mixed"


def _why(precision: str) -> str:
    if precision != usual_precision():
        return "asked for by precision="
    return {
        "32-true": "exact; bf16-mixed is faster on CPUs that multiply bf16",
        "bf16-mixed": "this GPU has bf16, which needs no loss scaler",
        "16-mixed": "this GPU has no bf16; fp16 with a loss scaler",
    }[precision]
