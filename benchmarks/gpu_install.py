"""Install the kernels on a machine without network from files that were carried there.

mamba-ssm as a wheel (built anywhere with MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE: it is
plain Python), causal-conv1d as its source archive, which nvcc compiles for the card alone.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

import torch


def install(folder: Path, target: Path) -> list[str]:
    """Install what is in a folder, put it on the path of imports, and say what was done."""
    target.mkdir(parents=True, exist_ok=True)
    done = []
    for file in sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")]):
        with tempfile.TemporaryDirectory() as scratch:
            source = file if file.suffix == ".whl" else _for_this_card(file, Path(scratch))
            message = _pip_install(source, target)
        done.append(f"{file.name}: {message}")
    sys.path.insert(0, str(target))
    return done


def _for_this_card(archive: Path, scratch: Path) -> Path:
    """Unpack a source archive and let it compile for the architecture of this card only."""
    with tarfile.open(archive) as file:
        file.extractall(scratch, filter="data")
    (folder,) = (path for path in scratch.iterdir() if path.is_dir())
    major, minor = torch.cuda.get_device_capability()
    setup = folder / "setup.py"
    own = f"arch=compute_{major}{minor},code=sm_{major}{minor}"
    text = setup.read_text(encoding="utf-8")
    setup.write_text(re.sub(r"arch=compute_\d+,code=sm_\d+", own, text), encoding="utf-8")
    return folder


def _pip_install(source: Path, target: Path) -> str:
    flags = ["--no-index", "--no-deps", "--no-build-isolation", "--upgrade", "--target"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *flags, str(target), str(source)]
    environment = os.environ | {"CAUSAL_CONV1D_FORCE_BUILD": "TRUE", "MAX_JOBS": "16"}
    done = subprocess.run(
        command, env=environment, check=False, capture_output=True, text=True, timeout=400
    )
    return "installed" if done.returncode == 0 else done.stderr.strip()[-500:]


def spare_mamba_1_extension() -> None:
    """Let mamba_ssm be imported without Mamba-1's compiled extension, which Mamba2 never calls."""
    sys.modules.setdefault("selective_scan_cuda", ModuleType("selective_scan_cuda"))
