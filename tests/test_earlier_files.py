"""Stores, checkpoints, runs and results that an earlier version wrote still load.

tests/fixtures/earlier/README.md says how they were written.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from biomamba.data.ledger import Ledger
from biomamba.data.store.reader import TokenSplit, open_stores
from biomamba.data.tokenizer import Tokenizer
from biomamba.training.checkpoint_io import verify_checkpoint

pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).parent / "fixtures" / "earlier" / "files.tar.xz"
TRAIN = (
    "model=mamba2_tiny",
    "model.config.d_model=8",
    "model.config.headdim=8",
    "model.config.n_layer=1",
    "model.config.d_state=16",
    "max_tokens=6144",
    "tokens_per_step=1024",
    "data.budget.seq_len=128",
    "data.budget.micro_batch_size=4",
    "data.max_val_documents=2",
    "trainer.log_every_n_steps=1",
    "trainer.val_check_interval=2",
    "callbacks=ema_select",
    "callbacks.checkpoint.every_n_steps=4",
    "callbacks.checkpoint.keep_last=3",
)
EVALUATE = ("evaluation.max_documents=4", "evaluation.seq_len=128")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def program(name: str, *arguments: str, folder: Path) -> str:
    """Return what a program prints that must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", f"biomamba.{name}", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_stores_and_checkpoints_are_read(folder: Path) -> None:
    stores = [str(folder / "data" / "embedded" / n) for n in ("biomedical", "web", "encyclopaedic")]
    splits = {split: TokenSplit.open(open_stores(stores), split) for split in ("train", "test")}
    assert all(len(split) > 0 for split in splits.values())
    end = Tokenizer.byte_tokenizer().eod_id
    assert {int(split.tokens(i)[-1]) for split in splits.values() for i in range(len(split))} == {
        end
    }
    for step in (4, 6):
        assert verify_checkpoint(folder / "run" / "checkpoints" / f"step_000000{step}.ckpt")
    ledger = Ledger(folder / "run" / "ledger")
    assert ledger.num_steps == 6

    assert "damaged" not in program("verify", folder=folder)


def test_a_run_goes_on_from_a_checkpoint_to_the_weights_of_the_version_that_wrote_it(
    folder: Path,
) -> None:
    start = "resume=run/checkpoints/step_0000004.ckpt"
    program("train", *TRAIN, start, "paths.run_dir=other", folder=folder)

    for model in ("model", "model_best"):
        written = load_file(folder / "run" / model / "model.safetensors")
        weights = load_file(folder / "other" / model / "model.safetensors")
        assert weights.keys() == written.keys()
        for name, value in written.items():
            # Processors round differently; an update that is not the same one is off by 1e-3.
            torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6)


def test_a_finished_run_is_finished_and_planned_from_its_folder(folder: Path) -> None:
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*.safetensors")}
    assert "has done its 6 steps" in program("train", *TRAIN, "paths.run_dir=run", folder=folder)
    assert before == {path: path.read_bytes() for path in (folder / "run").rglob("*.safetensors")}

    assert "trained parameters" in program("plan", "run=run", folder=folder)
    program("export", "checkpoint=run", "format=transformers", "output=exported", folder=folder)
    assert (folder / "exported" / "config.json").is_file()


def test_results_are_those_of_the_version_that_wrote_them_and_are_reported(folder: Path) -> None:
    program("evaluate", "checkpoint=run/model", *EVALUATE, "paths.run_dir=again", folder=folder)
    keys = ("source", "metric", "model", "split", "num_tokens", "num_documents")
    found = [
        {
            tuple(record[key] for key in keys): record["value"]
            for record in map(
                json.loads, (folder / name / "results.jsonl").read_text().split("\n")[:-1]
            )
        }
        for name in ("evaluation", "again")
    ]
    assert found[0].keys() == found[1].keys()
    assert found[1] == pytest.approx(found[0], rel=1e-5)

    shutil.rmtree(folder / "again")
    program("report", "runs=[run,evaluation]", "output=report", folder=folder)
    report = (folder / "report" / "report.md").read_text()
    assert "biomedical" in report
