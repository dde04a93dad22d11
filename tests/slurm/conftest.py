"""A SLURM per process of tests; prepared data and the uninterrupted run are made once for all.

Needs `apt-get install --no-install-recommends slurmctld slurmd slurm-client munge`; without them
the tests are skipped, or fail if BIOMAMBA_REQUIRE_SLURM=1.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import PROGRAMS, Cluster, wait_for
from slurm_jobs import Result, result_of, train


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Start two nodes."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        reason = f"SLURM is not installed: {', '.join(missing)} not found"
        if os.environ.get("BIOMAMBA_REQUIRE_SLURM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    cluster = Cluster(folder, first_job=1 + 1_000 * worker)
    with pytest.MonkeyPatch.context() as patch:
        for variable in [name for name in os.environ if name.startswith(("SLURM", "SBATCH"))]:
            patch.delenv(variable)
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("BIOMAMBA_PYTHON", sys.executable)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def workspace(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared embedded corpora, the same in all processes of tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "workspace"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "data").is_dir():
            subprocess.run([sys.executable, "-m", "biomamba.prepare"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def reference(workspace: Path) -> Iterator[Callable[[], Result]]:
    """Return a function that waits for the uninterrupted run of two nodes and returns its end."""
    job = None
    try:
        (workspace / "reference.claimed").touch(exist_ok=False)
        job = train(workspace, "reference")
    except FileExistsError:
        pass  # another process has submitted it
    run_dir = workspace / "runs" / "t" / "reference"

    def result() -> Result:
        if job is not None:
            assert job.finish() == "COMPLETED", job.text()
            assert [start["step"] for start in job.starts()] == [0]
        record = run_dir / "run.json"
        wait_for("the reference", lambda: record.is_file() and '"after"' in record.read_text())
        return result_of(run_dir)

    yield result
    if job is not None:
        job.finish()
