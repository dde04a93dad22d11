"""Token stores of the embedded corpora, for benchmarks that train."""

import os
import subprocess
import sys
from pathlib import Path


def prepare_embedded(root: Path) -> Path:
    """Prepare the embedded corpora below a folder and return the data folder."""
    folder = root / "data"
    subprocess.run(
        [sys.executable, "-m", "biomamba.prepare", f"paths.data_dir={folder}"],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        check=True,
        capture_output=True,
    )
    return folder
