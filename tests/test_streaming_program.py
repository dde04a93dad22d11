"""`python -m biomamba.train data=embedded_stream`: exact through resumes and ranks."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from biomamba.data.ledger import Ledger

pytestmark = pytest.mark.slow

ARGUMENTS = (
    "data=embedded_stream",
    "name=t",
    "max_tokens=8_192",
    "tokens_per_step=1_024",
    "trainer.val_check_interval=4",
    "callbacks.checkpoint.keep_last=10",
    "data.max_val_documents=4",
    "data.budget.seq_len=128",
    "data.budget.micro_batch_size=2",
    # Small blocks, so that every reader goes through several of them.
    "data.reading.block_documents=2",
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def train(folder: Path, *arguments: str, launcher: Sequence[str] = ()) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "biomamba.train", *ARGUMENTS, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def entries(run_dir: Path) -> NDArray[Any]:
    ledger = Ledger(run_dir / "ledger")
    assert (ledger.num_steps, ledger.gaps, ledger.num_unfinished_steps) == (8, [], 0)
    return np.concatenate(list(ledger.chunks()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the uninterrupted run `whole`; nothing was prepared."""
    folder = tmp_path_factory.mktemp("stream")
    train(folder, "run_id=whole")
    return folder / "runs" / "t"


def half_of(run_dir: Path) -> Path:
    (checkpoint,) = (run_dir / "checkpoints").glob("step_*4.ckpt")
    return checkpoint


def test_a_run_needs_no_stores_and_learns(runs: Path) -> None:
    assert not (runs.parents[1] / "data").exists()
    record = json.loads((runs / "whole" / "run.json").read_text())
    assert record["after"]["val/loss"] < record["before"]["val/loss"]
    assert (runs / "whole" / "model" / "tokenizer.json").is_file()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_ends_with_the_weights_of_the_whole(runs: Path, num_workers: int) -> None:
    run_id = f"resumed{num_workers}"
    options = (f"run_id={run_id}", f"data.num_workers={num_workers}")
    train(runs.parents[1], *options, f"resume={half_of(runs / 'whole')}")
    whole, resumed = (
        (runs / name / "model" / "model.safetensors").read_bytes() for name in ("whole", run_id)
    )
    assert resumed == whole
    assert np.array_equal(entries(runs / run_id), entries(runs / "whole"))


def test_two_ranks_and_then_one_see_the_documents_of_the_whole(runs: Path) -> None:
    folder = runs.parents[1]
    train(folder, "run_id=ranks", "trainer=cpu_2", "data.num_workers=1", launcher=TORCHRUN)
    assert np.array_equal(entries(runs / "ranks"), entries(runs / "whole"))
    train(folder, "run_id=one", f"resume={half_of(runs / 'ranks')}")
    assert np.array_equal(entries(runs / "one"), entries(runs / "whole"))
    records = [json.loads((runs / name / "run.json").read_text()) for name in ("whole", "one")]
    assert records[0]["data_fingerprint"] == records[1]["data_fingerprint"]
    assert records[0]["after"] == pytest.approx(records[1]["after"], rel=1e-5)
