"""A run that stops and continues is the run that did not stop: weights, curves, ledger, record."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biomamba import prepare, train
from biomamba.config.compose import compose_config
from biomamba.data.ledger import Ledger
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.random_state import seed_everything
from biomamba.training.checkpoint_io import DurableCheckpointIO
from biomamba.training.run import run_lock

pytestmark = [
    pytest.mark.slow,
    # The event files of the earlier starts stay.
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

NUM_STEPS = 12
SETTINGS = (
    f"max_tokens={NUM_STEPS * 512}",
    "tokens_per_step=512",
    "data.budget.seq_len=64",
    "data.budget.micro_batch_size=8",
    "data.max_val_documents=2",
    "trainer.val_check_interval=4",
    "trainer.log_every_n_steps=1",
    "callbacks.checkpoint.every_n_steps=1",
    "callbacks.checkpoint.keep_last=100",
    "callbacks.progress=null",
    "callbacks.preemption=null",
    "model.config.d_model=32",
    "model.config.n_layer=2",
    "data.verify=size",
)


class StopError(Exception):
    """What ends a run early."""


class StopAt(lightning.Callback):
    """Stops a run like a defect, in the middle of a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            raise StopError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare.main(compose_config("prepare", [f"paths.data_dir={folder}", "run_id=x"]))
    return folder


class StopInValidation(StopAt):
    """Stops a run between a checkpoint and the validation of its step."""

    def on_train_batch_start(self, *_: Any) -> None: ...

    def on_validation_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        super().on_train_batch_start(trainer)


Run = Callable[..., Path]


@pytest.fixture
def run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return run(name, *overrides, stop=None): train in a folder of this name and return it.

    It stops before the step after `stop`, or where `stop` says.
    """
    build_callbacks = train.build_callbacks

    def _run(name: str, *overrides: str, stop: int | StopAt | None = None) -> Path:
        folder = tmp_path / name
        arguments = (f"paths.data_dir={data}", f"paths.run_dir={folder}", "run_id=x", *SETTINGS)
        cfg = compose_config("train", [*arguments, *overrides])

        stops = [] if stop is None else [StopAt(stop) if isinstance(stop, int) else stop]

        def with_stop(nodes: Any, run: Any) -> list[Any]:
            return build_callbacks(nodes, run) + stops

        monkeypatch.setattr(train, "build_callbacks", with_stop)
        seed_everything(cfg.seed)
        if stop is None:
            train.train(cfg)
        else:
            with pytest.raises(StopError):
                train.train(cfg)
        return folder

    return _run


def points(folder: Path, name: str) -> list[tuple[int, float]]:
    curves = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(point.step, point.value) for point in curves.Scalars(name)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def entries(folder: Path) -> np.ndarray[Any, Any]:
    ledger = Ledger(folder / "ledger")
    assert (ledger.gaps, ledger.num_unfinished_steps) == ([], 0)
    return np.concatenate(list(ledger.chunks()))


def assert_same_run(found: Path, whole: Path) -> None:
    for name, value in weights(whole).items():
        assert torch.equal(weights(found)[name], value), name
    for name in ("train/loss", "train/grad_norm", "train/lr/decay", "data/tokens", "val/loss"):
        assert points(found, name) == points(whole, name), name
    assert np.array_equal(entries(found), entries(whole))
    for part in ("before", "after", "realised", "data_fingerprint"):
        assert record(found)[part] == record(whole)[part]


def last_state(folder: Path) -> dict[str, Any]:
    return DurableCheckpointIO().load_checkpoint(max((folder / "checkpoints").glob("*.ckpt")))


@pytest.mark.parametrize(
    ("num_workers", "options"),
    [
        (0, ()),
        (1, ("data.budget.micro_batch_size=2",)),  # four of them make a step
        (2, ("data.budget.micro_batch_size=2", "trainer.precision=bf16-mixed")),
    ],
)
def test_three_resumes_at_random_steps_change_nothing(
    run: Run, num_workers: int, options: tuple[str, ...]
) -> None:
    whole = run("whole", *options)
    options = (*options, f"data.num_workers={num_workers}")
    stops = sorted(random.Random(num_workers).sample(range(1, NUM_STEPS), 3))
    for stop in stops:
        run("stopped", *options, stop=stop)
    stopped = run("stopped", *options)
    assert_same_run(stopped, whole)
    assert [found["step"] for found in record(stopped)["provenance"]["resumes"]] == stops
    mine, its = last_state(stopped), last_state(whole)
    for name, value in its["state_dict"].items():
        assert torch.equal(mine["state_dict"][name], value), name
    states, wanted = mine["optimizer_states"][0]["state"], its["optimizer_states"][0]["state"]
    for index, state in wanted.items():
        assert all(torch.equal(states[index][name], value) for name, value in state.items())


def test_a_checkpoint_some_steps_back_leaves_no_point_twice(run: Run) -> None:
    whole = run("whole")
    every = "callbacks.checkpoint.every_n_steps=5"
    run("stopped", every, stop=8)  # steps 6 to 8 were logged and not saved
    assert_same_run(run("stopped", every), whole)


def test_the_background_saves_the_same_run(run: Run) -> None:
    whole = run("whole")
    background = "callbacks.checkpoint.in_background=true"
    run("stopped", background, stop=7)
    assert_same_run(run("stopped", background), whole)


@pytest.mark.parametrize("stop", [4, 8])
def test_a_damaged_newest_checkpoint_costs_steps_and_nothing_else(
    run: Run, stop: int, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = run("whole")
    stopped = run("stopped", stop=stop)
    newest = stopped / "checkpoints" / f"step_{stop:07d}.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    run("stopped")
    assert (
        f"taking {stopped}/checkpoints/step_{stop - 1:07d}.ckpt instead" in capfd.readouterr().err
    )
    assert_same_run(stopped, whole)


def test_a_finished_run_is_not_trained_again(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    folder = run("run")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    run("run")
    assert "finished: " in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_stopped_behind_its_last_step_is_finished_without_training(run: Run) -> None:
    whole, folder = run("whole"), run("run")
    closed = record(folder)
    del closed["after"]
    (folder / "run.json").write_text(json.dumps(closed))
    run("run")
    assert record(folder)["after"] == record(whole)["after"]
    assert (folder / "model" / "model.safetensors").read_bytes() == (
        whole / "model" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("overrides", "folders"),
    [
        (("callbacks=ema", "callbacks.ema.decay=0.5"), ["model", "model_ema"]),
        (("callbacks=select",), ["model", "model_best"]),
        (
            ("callbacks=ema_select", "callbacks.ema.decay=0.5", "callbacks.selection.mode=max"),
            ["model", "model_ema", "model_best"],
        ),
        # The second validation is not better: the run stops at step 8, and continues from there.
        (
            ("callbacks=select", "callbacks.selection.mode=max", "callbacks.selection.patience=1"),
            ["model", "model_best"],
        ),
    ],
)
def test_what_a_run_leaves_depends_on_its_last_checkpoint_alone(
    run: Run, tmp_path: Path, overrides: tuple[str, ...], folders: list[str]
) -> None:
    whole = run("whole", *overrides)
    shutil.copytree(whole, tmp_path / "run")
    closed = record(tmp_path / "run")
    for part in ("after", "selection", "realised"):
        closed.pop(part, None)
    (tmp_path / "run" / "run.json").write_text(json.dumps(closed))
    for name in folders:
        shutil.rmtree(tmp_path / "run" / name)
    found = run("run", *overrides)
    last = max((whole / "checkpoints").glob("*.ckpt"))
    branch = run("branch", *overrides, f"resume={last}")

    for folder in (found, branch):
        for name in folders:
            weights_file = f"{name}/model.safetensors"
            assert (folder / weights_file).read_bytes() == (whole / weights_file).read_bytes()
        for part in ("after", "selection", "realised", "before"):
            assert record(folder).get(part) == record(whole).get(part), part
        assert record(folder)["starts"][-1]["end"] == "finished"
        assert np.array_equal(entries(folder), entries(whole))
    assert points(found, "val/loss") == points(whole, "val/loss")


@pytest.mark.parametrize("patience", [None, 1])
@pytest.mark.parametrize("step", [4, 8])
def test_a_validation_that_a_stop_came_before_reads_all_batches(
    run: Run, step: int, patience: int | None
) -> None:
    """Lightning continues after the batches of the validation before the checkpoint."""
    overrides = ["callbacks=ema_select", "callbacks.ema.decay=0.5", "callbacks.selection.mode=max"]
    overrides += [f"callbacks.selection.patience={patience or 'null'}"]
    whole = run("whole", *overrides)
    run("run", *overrides, stop=StopInValidation(step))
    found = run("run", *overrides)

    for part in ("after", "selection", "realised"):
        assert record(found)[part] == record(whole)[part]
    for name in ("model", "model_ema", "model_best"):
        weights_file = f"{name}/model.safetensors"
        assert (found / weights_file).read_bytes() == (whole / weights_file).read_bytes()
    curves = EventAccumulator(str(whole / "tensorboard")).Reload().Tags()["scalars"]
    for name in (tag for tag in curves if tag.startswith("val/")):
        assert points(found, name) == points(whole, name), name


def test_other_settings_are_refused_or_allowed_and_recorded(run: Run) -> None:
    run("run", stop=6)
    other = ("optimizer.weight_decay=0.5", "seed=2")
    with pytest.raises(ConfigError) as refused:
        run("run", *other)
    for part in ("optimizer.weight_decay is 0.1, asked for 0.5", "seed is 1, asked for 2"):
        assert part in str(refused.value)
    web, weights = "${paths.data_dir}/embedded/web", "data.mixture.weights"
    for changes, told in (
        (["tokens_per_step=1_024"], "tokens_per_step is 512, asked for 1024"),
        ([f"{weights}.biomedical=0.7", f"{weights}.web=0.2"], f"{weights}.web is 0.1, asked for"),
        (["data.budget.seq_len=32"], "data.budget.seq_len is 64, asked for 32"),
        ([f"sources.biomedical=[{web}]"], "data_fingerprint is "),  # another store
    ):
        with pytest.raises(ConfigError) as refused:
            run("run", *changes)
        assert told in str(refused.value)
    with pytest.warns(UserWarning, match="records 0 of the 6 steps before the checkpoint"):
        folder = run("run", *other, "allow_change=true")
    (resume,) = record(folder)["provenance"]["resumes"]
    assert "optimizer.weight_decay is 0.1, asked for 0.5" in resume["changes"]
    groups = last_state(folder)["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert Ledger(folder / "ledger_to_step_0000006").end_step == 6
    assert Ledger(folder / "ledger").gaps == [(0, 6)]


def largest_difference(one: Path, two: Path) -> float:
    pairs = ((value, weights(two)[name]) for name, value in weights(one).items())
    return max(float((a - b).abs().max()) for a, b in pairs)


def test_smaller_micro_batches_see_the_same_documents(run: Run) -> None:
    long = ("max_tokens=25_600", "callbacks.checkpoint.every_n_steps=25")
    whole = run("whole", *long)
    run("stopped", *long, stop=25)
    stopped = run("stopped", *long, "data.budget.micro_batch_size=2")
    assert np.array_equal(entries(stopped), entries(whole))
    assert largest_difference(stopped, whole) <= 1e-6


def launch(data: Path, folder: Path, *overrides: str, num_ranks: int = 1) -> subprocess.Popen[str]:
    torchrun = ("torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}", "-m")
    launcher = torchrun if num_ranks > 1 else ()
    arguments = (f"paths.data_dir={data}", f"paths.run_dir={folder}", "run_id=x", *SETTINGS)
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "biomamba.train", *arguments, *overrides],
        cwd=folder.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_run_goes_on_and_a_second_process_is_refused(
    run: Run, data: Path, tmp_path: Path
) -> None:
    long = (f"max_tokens={40 * 512}", "data.num_workers=2", "callbacks.checkpoint.keep_last=2")
    with launch(data, tmp_path / "killed", *long) as first:
        checkpoints = tmp_path / "killed" / "checkpoints"
        while not list(checkpoints.glob("*.ckpt")):
            assert first.poll() is None, first.communicate()[1]
            time.sleep(0.01)
        refusal = pytest.raises(ConfigError, match="another process trains in")
        with refusal, run_lock(tmp_path / "killed"):
            pass
        first.kill()
    with run_lock(tmp_path / "killed"):  # at once, although its workers live a little longer
        pass
    killed, whole = run("killed", *long), run("whole", *long)
    step = record(killed)["provenance"]["resumes"][0]["step"]
    assert 0 < step < 40
    for name, value in weights(whole).items():
        assert torch.equal(weights(killed)[name], value), name
    assert np.array_equal(entries(killed), entries(whole))
    # The point of the last step that was saved may not have got home before the kill.
    found, wanted = (dict(points(folder, "train/loss")) for folder in (killed, whole))
    assert wanted.keys() - found.keys() <= {step}
    assert all(wanted[at] == value for at, value in found.items())
    assert len(list(checkpoints.iterdir())) == 4  # no litter


def test_one_process_goes_on_where_two_were(run: Run, data: Path, tmp_path: Path) -> None:
    long = ("max_tokens=25_600", "callbacks.checkpoint.every_n_steps=25")
    small = ("data.budget.micro_batch_size=4",)
    with launch(data, tmp_path / "two", "trainer=cpu_2", *long, *small, num_ranks=2) as ranks:
        message = ranks.communicate()[1]
        assert ranks.returncode == 0, message
    half = tmp_path / "two" / "checkpoints" / "step_0000025.ckpt"
    one, whole = run("one", *long, f"resume={half}"), run("whole", *long)
    assert np.array_equal(entries(one), entries(whole))
    for other in (one, tmp_path / "two"):
        assert largest_difference(other, whole) <= 1e-6
    assert record(one)["before"] == record(tmp_path / "two")["before"]
