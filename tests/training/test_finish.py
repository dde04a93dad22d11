"""The end of a run: when it counts as finished, and validations that a stop has cut off."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import TrainingError
from biomamba.training.callbacks.checkpoint import Checkpoints
from biomamba.training.checkpoint_io import checkpoint_name
from biomamba.training.finish import (
    check_all_steps,
    check_figures,
    check_weights,
    drawn_tags,
    final_figures,
    missing_points_only,
)


def stub_trainer(**options: Any) -> Any:
    strategy = SimpleNamespace(
        root_device=torch.device("cpu"), reduce=lambda value, reduce_op: value
    )
    return SimpleNamespace(
        **{"strategy": strategy, "loggers": [], "is_global_zero": True} | options
    )


@pytest.mark.parametrize(
    ("step", "num_steps", "skipped", "is_stopped_early", "found"),
    [
        (20, 20, 0, False, None),
        (10, 20, 0, True, None),
        (10, 20, 0, False, "after 10 of 20 steps"),
        (0, 20, 0, False, "after 0 of 20 steps"),
        (20, 20, 3, False, "last 3 of 20 steps were skipped.*newest .* is .*step_0000015.ckpt"),
        (10, 20, 1, True, "last 1 of 10 steps were skipped.*no checkpoint at or before step 9"),
    ],
)
def test_a_run_is_finished_when_its_last_step_was_taken(
    step: int,
    num_steps: int,
    skipped: int,
    is_stopped_early: bool,
    found: str | None,
    tmp_path: Path,
) -> None:
    for saved in (15, 20):
        (tmp_path / checkpoint_name(saved)).touch()
    trainer = stub_trainer(global_step=step, callbacks=[Checkpoints(str(tmp_path))])
    if found is None:
        check_all_steps(trainer, num_steps, skipped, is_stopped_early=is_stopped_early)
        return
    with pytest.raises(TrainingError, match=f"(?s){found}"):
        check_all_steps(trainer, num_steps, skipped, is_stopped_early=is_stopped_early)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_validation_that_is_not_finite_is_named(value: float) -> None:
    check_figures([{"val/web/nll": 1.0}, {"val/loss": 2.0}], "the last validation")
    with pytest.raises(TrainingError, match=rf"the last validation .*val/loss = {value}"):
        check_figures([{"val/web/nll": 1.0}, {"val/loss": value}], "the last validation")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    model = MambaLM(Mamba2Config(d_model=16, n_layer=1, vocab_size=8, headdim=8), ChunkedScan())
    check_weights(model, stub_trainer())
    with torch.no_grad():
        model.backbone.norm_f.weight[3] = value

    with pytest.raises(TrainingError, match=r"backbone\.norm_f\.weight"):
        check_weights(model, stub_trainer())


@pytest.mark.parametrize(("step", "source"), [(8, "fit"), (9, "validate")])
def test_a_validation_at_the_last_step_is_not_made_twice(step: int, source: str) -> None:
    trainer = stub_trainer(
        global_step=step,
        val_check_batch=4,
        callback_metrics={"val/from": torch.tensor(0.0), "train/loss": torch.tensor(1.0)},
        validate=lambda *_, verbose: [{"val/from": 1.0}],
    )
    module: Any = None
    (figures,) = final_figures(trainer, module, module)

    assert figures == {"val/from": {"fit": 0.0, "validate": 1.0}[source]}


def start(folder: Path, purge_step: int) -> TensorBoardLogger:
    return TensorBoardLogger(folder, name="", version="", purge_step=purge_step)


def draw(logger: TensorBoardLogger, step: int, *tags: str) -> None:
    logger.log_metrics(dict.fromkeys(tags, 1.0), step)
    logger.save()


def test_points_of_a_step_are_known_unless_a_later_start_purged_them(tmp_path: Path) -> None:
    first = start(tmp_path, 0)
    draw(first, 3, "val/loss")
    draw(first, 6, "val/loss", "val/web/nll")
    first.finalize("success")

    assert drawn_tags(tmp_path, 3) == {"val/loss"}
    assert drawn_tags(tmp_path, 6) == {"val/loss", "val/web/nll"}

    second = start(tmp_path, 4)  # continues after step 3
    second.save()
    assert drawn_tags(tmp_path, 3) == {"val/loss"}
    assert drawn_tags(tmp_path, 6) == set()
    draw(second, 6, "val/web/nll")
    assert drawn_tags(tmp_path, 6) == {"val/web/nll"}


def test_a_repeated_validation_draws_only_what_is_missing(tmp_path: Path) -> None:
    killed = start(tmp_path, 0)
    draw(killed, 6, "val/loss")
    killed.finalize("success")
    logger = start(tmp_path, 7)
    trainer = stub_trainer(loggers=[logger], global_step=6)
    with missing_points_only(trainer):
        draw(logger, 6, "val/loss", "val/web/nll")
    draw(logger, 7, "val/loss")
    logger.finalize("success")

    later = sorted(tmp_path.glob("events.out.tfevents.*"))[-1]
    alone = tmp_path / "alone"
    alone.mkdir()
    later.rename(alone / later.name)
    assert drawn_tags(alone, 6) == {"val/web/nll"}
    assert drawn_tags(alone, 7) == {"val/loss"}
