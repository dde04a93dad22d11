"""Versions against those that the code was tried with, and the optional kernels."""

import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from biomamba.diagnosis.finding import Finding, ok, warning
from biomamba.model.backends.auto import AutoScan
from biomamba.model.backends.fused import INSTALL, FusedScan
from biomamba.runtime.code_version import CHECKOUT
from biomamba.runtime.errors import MissingDependencyError

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
