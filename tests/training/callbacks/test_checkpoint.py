"""When checkpoints are saved, and which are kept."""

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import nn
from torch.utils.data import DataLoader

from biomamba.runtime.errors import CheckpointError, ConfigError
from biomamba.training.callbacks.checkpoint import Checkpoints, way_back
from biomamba.training.checkpoint_io import (
    DurableCheckpointIO,
    checkpoint_name,
    checkpoints_in,
    verify_checkpoint,
)
from biomamba.training.resume import RunContext, Start

NUM_STEPS = 10
NOBODY = 65_534


class Weight(lightning.LightningModule):
    """One weight with dropout, so that a step needs the random state."""

    def __init__(self, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = nn.Parameter(torch.ones(8))
        self._weight_decay = weight_decay

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([self.weight], lr=0.1, weight_decay=self._weight_decay)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(nn.functional.dropout(self.weight * batch).square().sum())
        optimizer.step()


class Batches(DataLoader[Any]):
    """Numbers that continue where a checkpoint was taken."""

    def __init__(self, first: int = 0) -> None:
        super().__init__(range(NUM_STEPS), batch_size=None, sampler=range(first, NUM_STEPS))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return NUM_STEPS

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


class At(lightning.Callback):
    """Calls a function at the end of a step, before the checkpoints."""

    def __init__(self, step: int, function: Any) -> None:
        self.step, self.function = step, function

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.function(trainer)


def fit(
    checkpoints: Checkpoints, *others: lightning.Callback, resume: Path | None = None, **model: Any
) -> Weight:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        max_steps=NUM_STEPS,
        logger=False,
        callbacks=[checkpoints, *others],
        plugins=[DurableCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Weight(**model)
    first = verify_checkpoint(resume).step if resume else 0
    trainer.fit(module, Batches(first), ckpt_path=resume, weights_only=True)
    return module


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints, all of which are good."""
    return sorted(verify_checkpoint(path).step for path in checkpoints_in(folder).values())


@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"every_n_steps": 3}, [9, 10]),  # the last step is always saved
        ({"every_n_steps": 2, "keep_last": 1}, [10]),
        ({"every_n_steps": 1, "keep_last": 2, "keep_every_steps": 4}, [4, 8, 9, 10]),
        ({"every_n_steps": 5, "keep_last": 9}, [5, 10]),
    ],
)
def test_the_newest_and_every_mth_are_kept(
    tmp_path: Path, options: dict[str, int], kept: list[int], in_background: bool
) -> None:
    fit(Checkpoints(str(tmp_path), in_background=in_background, **options))
    assert steps_in(tmp_path) == kept
    assert len(list(tmp_path.iterdir())) == 2 * len(kept)  # nothing but files and records


class Guard(lightning.Callback):
    """Says how many steps were skipped in a row at each step."""

    def __init__(self, skipped: dict[int, int]) -> None:
        self.skipped = skipped

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        skipped = self.skipped.get(trainer.global_step, 0)
        pl_module.guard = SimpleNamespace(skipped_in_a_row=skipped)


@pytest.mark.parametrize(
    ("skipped", "kept"),
    [
        # Two before the weights that made steps fail, and the two newest.
        ({6: 1, 7: 2, 8: 3, 9: 4, 10: 5}, [4, 5, 9, 10]),
        ({9: 1, 10: 2}, [7, 8, 9, 10]),
        ({6: 1, 7: 2}, [9, 10]),  # steps were taken again
        ({}, [9, 10]),
    ],
)
def test_checkpoints_before_steps_that_are_being_skipped_are_kept(
    tmp_path: Path, skipped: dict[int, int], kept: list[int]
) -> None:
    fit(Checkpoints(str(tmp_path), every_n_steps=1, keep_last=2), Guard(skipped))

    assert steps_in(tmp_path) == kept


@pytest.mark.parametrize(
    ("last_taken", "newest", "next_one"),
    [(9, 8, 4), (8, 8, 4), (5, 4, None), (3, None, None)],
)
def test_the_way_back_names_the_checkpoints_before_a_step(
    tmp_path: Path, last_taken: int, newest: int | None, next_one: int | None
) -> None:
    for step in (4, 8, 12):
        (tmp_path / checkpoint_name(step)).touch()
    trainer: Any = SimpleNamespace(callbacks=[Checkpoints(str(tmp_path))])
    told = way_back(trainer, last_taken)

    if newest is None:
        assert f"no checkpoint at or before step {last_taken}" in told
        return
    assert f"resume={tmp_path / checkpoint_name(newest)} allow_change=true" in told
    expected = "from the beginning"
    if next_one is not None:
        expected = f"from {tmp_path / checkpoint_name(next_one)}, or {expected}"
    assert told.endswith(f"continue {expected}")


def test_an_old_one_goes_only_when_a_newer_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    remove = DurableCheckpointIO.remove_checkpoint

    def observe(io: DurableCheckpointIO, path: Path) -> None:
        assert max(steps_in(tmp_path)) > verify_checkpoint(path).step
        removed.append(path.name)
        remove(io, path)

    monkeypatch.setattr(DurableCheckpointIO, "remove_checkpoint", observe)
    fit(Checkpoints(str(tmp_path), every_n_steps=4, keep_last=1, in_background=True))
    assert sorted(removed) == [checkpoint_name(4), checkpoint_name(8)]


def test_a_failed_save_stops_the_run_and_removes_nothing(tmp_path: Path) -> None:
    def break_disk(trainer: lightning.Trainer) -> None:
        (tmp_path / "gone").rename(tmp_path / "kept")
        (tmp_path / "gone").write_text("no folder any more")

    checkpoints = Checkpoints(str(tmp_path / "gone"), every_n_steps=2, keep_last=1)
    with pytest.raises(CheckpointError, match=r"cannot write .*step_0000006.ckpt"):
        fit(checkpoints, At(5, break_disk))
    assert steps_in(tmp_path / "kept") == [4]


def test_a_failure_in_the_background_stops_the_run_at_a_later_step(tmp_path: Path) -> None:
    def break_disk(trainer: lightning.Trainer) -> None:
        io: Any = trainer.strategy.checkpoint_io
        io.wait()
        (tmp_path / "gone").rename(tmp_path / "kept")
        (tmp_path / "gone").write_text("no folder any more")

    checkpoints = Checkpoints(str(tmp_path / "gone"), every_n_steps=4, in_background=True)
    # Whichever comes first: the end of the writer, or a look for old ones to remove.
    with pytest.raises(CheckpointError, match=r"cannot (write .*step_0000008.ckpt|be read)"):
        fit(checkpoints, At(7, break_disk))
    assert steps_in(tmp_path / "kept") == [4]


@pytest.mark.parametrize("in_background", [False, True])
def test_save_now_returns_a_durable_checkpoint_with_its_reason(
    tmp_path: Path, in_background: bool
) -> None:
    found = []

    def save(trainer: lightning.Trainer) -> None:
        (checkpoints,) = (c for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoints))
        path = checkpoints.save_now(trainer, "SIGUSR1")
        written = path.stat().st_mtime_ns
        assert checkpoints.save_now(trainer, "again") == path
        assert path.stat().st_mtime_ns == written
        found.append((path.name, verify_checkpoint(path).reason))

    checkpoints = Checkpoints(str(tmp_path), every_n_steps=100, in_background=in_background)
    fit(checkpoints, At(7, save))
    assert found == [("step_0000007.ckpt", "SIGUSR1")]
    assert verify_checkpoint(tmp_path / checkpoint_name(NUM_STEPS)).reason == "last step"


def test_random_states_and_optimizer_go_on(tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole = fit(Checkpoints(str(tmp_path), every_n_steps=4, keep_last=9))
    torch.manual_seed(4)
    resumed = fit(Checkpoints(str(tmp_path / "b")), resume=tmp_path / checkpoint_name(4))
    assert torch.equal(resumed.weight, whole.weight)


def test_options_of_the_optimizer_are_those_of_now(tmp_path: Path) -> None:
    fit(Checkpoints(str(tmp_path), every_n_steps=4, keep_last=9))
    resume = tmp_path / checkpoint_name(4)
    fit(Checkpoints(str(tmp_path / "b")), resume=resume, weight_decay=0.5)
    stored = DurableCheckpointIO().load_checkpoint(tmp_path / "b" / checkpoint_name(NUM_STEPS))
    assert stored["optimizer_states"][0]["param_groups"][0]["weight_decay"] == 0.5


def test_settings_go_into_the_record_and_the_checkpoint(tmp_path: Path) -> None:
    run = RunContext({"seed": 1}, Start(), list)
    fit(Checkpoints(str(tmp_path), run=run))
    path = tmp_path / checkpoint_name(NUM_STEPS)
    assert verify_checkpoint(path).settings == {"seed": 1}
    assert DurableCheckpointIO().load_checkpoint(path)["run"]["settings"] == {"seed": 1}


def test_checkpoints_come_after_all_other_callbacks(tmp_path: Path) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[Checkpoints(str(tmp_path)), At(1, print)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    callbacks: Any = getattr(trainer, "callbacks")  # noqa: B009 - of no declared type
    assert [isinstance(found, Checkpoint) for found in callbacks][-1]
    assert sum(isinstance(found, Checkpoint) for found in callbacks) == 1


def test_only_the_own_names_are_checkpoints_and_the_newest_comes_first(tmp_path: Path) -> None:
    for step in (9, 123, 20_000_000):
        (tmp_path / checkpoint_name(step)).write_text("")
    for name in ("last.ckpt", "step_1.ckpt", "step_0000009.ckpt.json", ".step_0000010.ckpt.x.tmp"):
        (tmp_path / name).write_text("")
    assert list(checkpoints_in(tmp_path)) == [20_000_000, 123, 9]
    assert checkpoints_in(tmp_path / "absent") == {}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match=r"/checkpoints cannot be read \(Not a directory\)"):
        checkpoints_in(tmp_path / "checkpoints")


def test_a_folder_that_may_not_be_read_is_refused(fork_ranks: Any) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is closed to others
        folder = Path(name) / "checkpoints"
        folder.mkdir()
        (folder / checkpoint_name(1)).write_text("")
        Path(name).chmod(0o755)
        folder.chmod(0o300)

        def look() -> None:
            if os.geteuid() == 0:
                os.setuid(NOBODY)  # modes do not hold root back
            checkpoints_in(folder)

        (end,) = fork_ranks(look)
        folder.chmod(0o700)
    assert f"CheckpointError: {folder} cannot be read (Permission denied)" in end.errors


def test_another_writer_is_refused(tmp_path: Path) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, max_epochs=1, callbacks=[Checkpoints(str(tmp_path))]
    )
    with pytest.raises(ConfigError, match="DurableCheckpointIO"):
        trainer.fit(Weight(), Batches())


@pytest.mark.parametrize("name", ["every_n_steps", "keep_last", "keep_every_steps"])
def test_a_number_below_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be .* at least 1.*, found 0"):
        Checkpoints("x", **{name: 0})  # type: ignore[arg-type]
