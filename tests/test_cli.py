"""The programs end to end on the embedded corpora, and what they say to a mistaken user."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biomamba.config.check import build
from biomamba.config.compose import compose_config
from biomamba.data.document import document_key
from biomamba.data.ledger import Ledger, totals
from biomamba.data.store.reader import TokenSplit, open_stores
from biomamba.evaluation.records import read_records
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.checkpoint import load_pretrained, save_pretrained
from biomamba.model.language_model import MambaLM

pytestmark = pytest.mark.slow

STEPS = (
    "max_tokens=8_192",
    "tokens_per_step=1_024",
    "trainer.val_check_interval=4",
    "callbacks.checkpoint.keep_last=10",
    "trainer.log_every_n_steps=2",
)
SMALL = ("data.max_val_documents=4", "data.budget.seq_len=128", "data.budget.micro_batch_size=4")


def run(
    folder: Path, program: str, *arguments: str, launcher: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *launcher, "-m", f"biomamba.{program}", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def succeed(folder: Path, program: str, *arguments: str) -> str:
    done = run(folder, program, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(folder: Path, program: str, *arguments: str) -> str:
    """Return the message of a refused run: one error, no traceback."""
    done = run(folder, program, *arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    return done.stderr


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared embedded corpora and a trained tiny model."""
    folder = tmp_path_factory.mktemp("workspace")
    succeed(folder, "prepare")
    succeed(folder, "train", "run_id=base", "name=t", *STEPS, *SMALL)
    return folder


def test_training_leaves_a_model_curves_and_a_record(workspace: Path) -> None:
    run_dir = workspace / "runs" / "t" / "base"
    record = json.loads((run_dir / "run.json").read_text())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (run_dir / "model").iterdir()
    }
    assert list((run_dir / "tensorboard").glob("events.*"))
    assert record["after"]["val/loss"] < record["before"]["val/loss"]
    assert record["provenance"]["config_sha256"]


def test_the_curves_hold_every_figure_and_end_with_the_record(workspace: Path) -> None:
    run_dir = workspace / "runs" / "t" / "base"
    curves = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    assert set(curves.Tags()["scalars"]) >= {
        "train/loss",
        "train/grad_norm",
        "train/lr/decay",
        "train/lr/no_decay",
        "data/tokens",
        "data/token_share/biomedical",
        "data/epochs/biomedical",
        "throughput/tokens_per_second",
        "throughput/data_wait_ratio",
        "system/peak_memory_gib",
        "val/loss",
        "val/web/perplexity",
        "val/encyclopaedic/bits_per_byte",
    }
    points = curves.Scalars("val/loss")
    record = json.loads((run_dir / "run.json").read_text())
    # Before the first step, and after steps 4 and 8.
    assert [point.step for point in points] == [0, 4, 8]
    assert points[0].value == pytest.approx(record["before"]["val/loss"])
    assert points[-1].value == pytest.approx(record["after"]["val/loss"])


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(workspace: Path) -> None:
    arguments = ("name=t", *STEPS, *SMALL)
    checkpoints = workspace / "runs" / "t" / "base" / "checkpoints"
    (half,) = checkpoints.glob("step_*4.ckpt")
    succeed(workspace, "train", "run_id=resumed", f"resume={half}", *arguments)
    whole, resumed = (
        (workspace / "runs" / "t" / run_id / "model" / "model.safetensors").read_bytes()
        for run_id in ("base", "resumed")
    )
    assert resumed == whole
    base, run_dir = workspace / "runs" / "t" / "base", workspace / "runs" / "t" / "resumed"
    assert np.array_equal(ledger_entries(run_dir), ledger_entries(base))
    assert realised(run_dir) == realised(base)


def ledger_entries(run_dir: Path) -> NDArray[Any]:
    ledger = Ledger(run_dir / "ledger")
    assert (ledger.num_steps, ledger.gaps, ledger.num_unfinished_steps) == (8, [], 0)
    return np.concatenate(list(ledger.chunks()))


def realised(run_dir: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((run_dir / "run.json").read_text())["realised"]
    return found


def test_the_record_counts_what_the_ledger_holds(workspace: Path) -> None:
    run_dir = workspace / "runs" / "t" / "base"
    sources = json.loads((run_dir / "run.json").read_text())["sources"]
    in_ledger = totals(Ledger(run_dir / "ledger"))
    assert {name: found["tokens"] for name, found in realised(run_dir).items()} == {
        name: found.tokens for name, found in in_ledger.items()
    }
    total = sum(found.tokens for found in in_ledger.values())
    for name, found in realised(run_dir).items():
        assert found["share"] == in_ledger[name].tokens / total
        assert found["epochs"] == in_ledger[name].tokens / sources[name]["num_tokens"]
        begun = sum(times * count for times, count in in_ledger[name].repeats.items())
        assert found["documents"] == begun


def test_the_ledger_tells_seen_from_unseen_held_out_and_unknown(workspace: Path) -> None:
    store = open_stores([str(workspace / "data" / "embedded" / "biomedical")])
    in_split = {name: TokenSplit.open(store, name).keys.tolist() for name in ("train", "test")}
    entries = ledger_entries(workspace / "runs" / "t" / "base")
    seen = entries["key"][entries["source"] == 0].tolist()
    corpus = build(compose_config("prepare").corpora.biomedical)
    ids = {
        document_key(document.id): document.id
        for shard in corpus.shards()
        for document in corpus.documents(shard)
    }
    asked = {
        seen[0]: "TRAINED ON in 1 step(s)",
        next(key for key in in_split["train"] if key not in seen): "not seen so far, it is in the",
        in_split["test"][0]: "HELD OUT in the test split of data/embedded/biomedical",
    }
    for key, answer in asked.items():
        question = ("run=runs/t/base", f"document='{ids[key]}'", "source=biomedical")
        assert answer in succeed(workspace, "ledger", *question)
    assert "not in the corpus" in succeed(workspace, "ledger", "run=runs/t/base", "pmid=1")
    assert not (workspace / "outputs").exists()
    assert not (workspace / ".hydra").exists()


def test_a_damaged_ledger_is_named(workspace: Path) -> None:
    subprocess.run(["cp", "-r", "runs/t/base", "runs/t/hurt"], check=True, cwd=workspace)
    victim = min((workspace / "runs" / "t" / "hurt" / "ledger").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1])
    assert f"{victim.name} is damaged or cut" in refusal(workspace, "ledger", "run=runs/t/hurt")


def test_two_ranks_end_with_the_weights_of_one_process(workspace: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    arguments = ("trainer=cpu_2", "run_id=ranks", "name=t", *STEPS, *SMALL)
    done = run(workspace, "train", *arguments, launcher=torchrun)
    assert done.returncode == 0, done.stderr
    one, two = (
        load_file(workspace / "runs" / "t" / run_id / "model" / "model.safetensors")
        for run_id in ("base", "ranks")
    )
    for name, weights in one.items():
        # Sums in another order, through eight steps of Adam.
        torch.testing.assert_close(two[name], weights, rtol=1e-3, atol=1e-4, msg=name)
    records = [
        json.loads((workspace / "runs" / "t" / run_id / "run.json").read_text())
        for run_id in ("base", "ranks")
    ]
    assert records[0]["after"] == pytest.approx(records[1]["after"], rel=1e-5)
    assert records[0]["data_fingerprint"] == records[1]["data_fingerprint"]
    assert records[0]["realised"] == records[1]["realised"]
    base, ranks = (workspace / "runs" / "t" / run_id for run_id in ("base", "ranks"))
    assert np.array_equal(ledger_entries(ranks), ledger_entries(base))
    # One process continues after the checkpoint in the middle, in the same folder.
    (half,) = (ranks / "checkpoints").glob("step_*4.ckpt")
    succeed(workspace, "train", "run_id=ranks", f"resume={half}", "name=t", *STEPS, *SMALL)
    chunks = sorted(path.name for path in (ranks / "ledger").iterdir())
    assert [name.split(".", 1)[1] for name in chunks] == [
        "rank-0-of-2.ledger",
        "rank-1-of-2.ledger",
        "rank-0-of-1.ledger",
    ]
    assert np.array_equal(ledger_entries(ranks), ledger_entries(base))
    assert realised(ranks) == realised(base)


def test_two_shards_end_with_the_weights_of_one_process(workspace: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    arguments = ("trainer=cpu_2_fsdp", "run_id=shards", "name=t", *STEPS, *SMALL)
    forgetful = "model.activation_checkpointing=true"
    done = run(workspace, "train", *arguments, forgetful, launcher=torchrun)
    assert done.returncode == 0, done.stderr
    assert "FSDP2-wrapped" not in done.stderr
    one, two = (workspace / "runs" / "t" / run_id for run_id in ("base", "shards"))
    expected = load_file(one / "model" / "model.safetensors")
    found = load_file(two / "model" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        # Sums in another order, through eight steps of Adam.
        torch.testing.assert_close(found[name], weights, rtol=1e-3, atol=1e-4, msg=name)
    records = [json.loads((folder / "run.json").read_text()) for folder in (one, two)]
    for stage in ("before", "after"):
        assert records[1][stage] == pytest.approx(records[0][stage], rel=1e-5)
    # One process continues from the middle of the sharded run.
    (half,) = (two / "checkpoints").glob("step_*4.ckpt")
    succeed(workspace, "train", "run_id=unshard", f"resume={half}", "name=t", *STEPS, *SMALL)
    found = load_file(workspace / "runs" / "t" / "unshard" / "model" / "model.safetensors")
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=1e-3, atol=1e-4, msg=name)


def test_evaluation_sets_two_models_side_by_side(workspace: Path) -> None:
    succeed(
        workspace,
        "train",
        "run_id=adapted",
        "name=t",
        "model.checkpoint=runs/t/base/model",
        *STEPS,
        *SMALL,
    )
    table = succeed(
        workspace,
        "evaluate",
        "checkpoint=runs/t/adapted/model",
        "baseline=runs/t/base/model",
        "evaluation.max_documents=6",
        "paths.run_dir=scores",
    )
    records = read_records(workspace / "scores" / "results.jsonl")
    # Two metrics of the base; two and their two changes of the adapted; three sources.
    assert len(records) == 3 * (2 + 4)
    assert {record.num_documents for record in records} == {6}
    assert all(record.low <= record.value <= record.high for record in records)
    for word in ("biomedical", "perplexity base", "perplexity adapted", "bits/byte"):
        assert word in table


def test_every_misspelled_key_is_reported_at_once(workspace: Path) -> None:
    message = refusal(workspace, "train", "optimizer.lrr=1", "traner.devices=2", "data.sed=3")
    for part in ("optimizer.lrr", "lr", "traner", "trainer", "data.sed", "seed"):
        assert part in message


def test_a_missing_store_is_named_with_the_command_that_makes_it(workspace: Path) -> None:
    message = refusal(workspace, "train", "paths.data_dir=nowhere")
    assert "nowhere/embedded/" in message
    assert "biomamba.prepare" in message


def test_weights_that_do_not_sum_to_one_are_refused(workspace: Path) -> None:
    message = refusal(workspace, "train", "data.mixture.weights.biomedical=0.7")
    assert "data.mixture" in message
    assert "0.9" in message


def test_a_step_that_cannot_be_divided_is_refused(workspace: Path) -> None:
    message = refusal(workspace, "train", "tokens_per_step=5_000")
    assert "5000" in message.replace(",", "").replace("_", "")


def test_a_corrupt_store_is_refused(workspace: Path) -> None:
    damaged = workspace / "damaged"
    subprocess.run(["cp", "-r", workspace / "data", damaged], check=True)
    victim = next((damaged / "embedded" / "biomedical").glob("*.train.bin"))
    content = bytearray(victim.read_bytes())
    content[1000] ^= 1
    victim.write_bytes(content)
    assert victim.name in refusal(workspace, "train", "paths.data_dir=damaged")


def test_a_missing_checkpoint_is_refused(workspace: Path) -> None:
    message = refusal(workspace, "train", "model.checkpoint=./no/such/model", *STEPS, *SMALL)
    assert "no/such/model" in message


def test_a_model_of_too_small_a_vocabulary_is_refused(workspace: Path) -> None:
    message = refusal(workspace, "train", "model.config.vocab_size=100", *STEPS, *SMALL)
    assert "model.config.vocab_size is 100" in message
    assert "257" in message


@pytest.mark.slow_extra
@pytest.mark.timeout(900)
def test_the_published_130m_shape_trains_from_a_checkpoint_with_its_tokenizer(
    tmp_path: Path, real_data: Path, compose: Callable[..., DictConfig]
) -> None:
    """The real path: the NeoX vocabulary, real text, the layout of the published weights."""
    config = build(compose("train", "model=mamba2_130m").model.config)
    save_pretrained(MambaLM(config, ChunkedScan()), tmp_path / "random")
    succeed(
        tmp_path,
        "prepare",
        "corpus=[local_wikipedia,local_c4,local_pubmed]",
        "tokenizer=neox",
        f"tokenizer.path={real_data}/gpt-neox-20b-tokenizer/20B_tokenizer.json",
        f"paths.raw_dir={real_data}",
        "name=corpora",
    )
    succeed(
        tmp_path,
        "train",
        "+experiment=cpt/mamba2_130m",
        "run_id=short",
        "trainer=cpu",
        f"model.checkpoint={tmp_path}/random",
        "max_tokens=4_096",
        "tokens_per_step=2_048",
        "optimizer.lr=1e-3",
        "data.budget.seq_len=512",
        "data.budget.micro_batch_size=2",
        "data.max_val_documents=1",
        "data.num_workers=0",
    )
    run_dir = tmp_path / "runs" / "cpt" / "mamba2_130m" / "short"
    record = json.loads((run_dir / "run.json").read_text())
    assert record["after"]["val/loss"] < record["before"]["val/loss"]
    trained = load_pretrained(str(run_dir / "model"), ChunkedScan())
    assert sum(p.numel() for p in trained.parameters()) == 128_989_632


def test_null_means_no_progress_bar(workspace: Path) -> None:
    options = ("name=quiet", "max_tokens=2_048", "tokens_per_step=1_024", *SMALL)
    with_bar = run(workspace, "train", "run_id=bar", *options)
    without = run(workspace, "train", "run_id=none", *options, "callbacks.progress=null")

    assert (with_bar.returncode, without.returncode) == (0, 0)
    assert "it/s" in with_bar.stdout + with_bar.stderr
    assert "it/s" not in without.stdout + without.stderr
    assert "model: runs/quiet/none/model" in without.stdout
