"""Runs that are killed while they end, by benchmarks/end_faults.py, become the run they are."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file, save_file

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # up to five starts in a row


@pytest.fixture
def end_faults(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import end_faults as module  # a script

    return module


def test_a_run_killed_while_it_ends_is_the_run_nobody_killed(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / "end_faults.py"), "--kills", "2", "--kinds", "one"]
    command += ["--callbacks", "ema_select", "--output", str(output)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stdout.decode()[-4000:]
    results = json.loads(output.read_text(encoding="utf-8"))["results"]
    assert (results["kills"], results["equal_kills"]) == (2, 2)
    assert all(run["exit_codes"][-1] == 0 for run in results["runs"])


def test_every_difference_is_found(tmp_path: Path, end_faults: ModuleType) -> None:
    driver = end_faults.Driver(tmp_path, 0, list(end_faults.EVENTS))
    whole = driver.whole("one", "ema_select")
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    assert end_faults.differences(run, whole, set()) == []

    weights = load_file(run / "model_best" / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, run / "model_best" / "model.safetensors")
    (run / "model_ema" / "config.json").unlink()
    (run / ".model.tmp").touch()
    (run / "checkpoints" / "step_0000020.ckpt").unlink()
    record = json.loads((run / "run.json").read_text())
    record["after"]["val/loss"] += 1.0
    record["starts"][-1]["end"] = None
    (run / "run.json").write_text(json.dumps(record))
    newest = max((run / "tensorboard").glob("events*"), key=lambda path: path.stat().st_size)
    shutil.copy(newest, newest.with_name(f"{newest.name}.9"))
    max((run / "ledger").iterdir()).unlink()

    found = "\n".join(end_faults.differences(run, whole, set()))
    for expected in (
        "bits of model_best/model.safetensors differ",
        "no file model_ema/config.json",
        "a file too many: .model.tmp",
        "no checkpoint of step 20",
        "run.json: after",
        "the last start ends with None",
        f"curves: points twice at {list(range(2, 21, 2))}",
        "ledger: 18 steps compared",
    ):
        assert expected in found, found
