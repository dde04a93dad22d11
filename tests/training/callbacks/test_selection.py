"""The best weights: which ones, through stops and ranks, and when a run ends early."""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from biomamba.data.batches import Batch, StepLoader, StepSampler
from biomamba.data.datamodule import TrainingData
from biomamba.data.mixture import Mixture, TokenBudget
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.checkpoint import load_pretrained
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import CheckpointError, ConfigError
from biomamba.training.callbacks.averaging import Ema
from biomamba.training.callbacks.checkpoint import Checkpoints
from biomamba.training.callbacks.selection import Selection
from biomamba.training.checkpoint_io import DurableCheckpointIO, checkpoint_name
from biomamba.training.finish import DueValidation
from biomamba.training.module import LanguageModelingModule, Objective
from biomamba.training.optimizer import AdamW, Constant

VOCAB, LENGTH, ROWS, STEPS = 16, 4, 2, 8
CONFIG = Mamba2Config(d_model=8, n_layer=1, vocab_size=VOCAB, d_state=4, headdim=4)
# One figure for each validation, of steps 2, 4, 6 and 8.
FIGURES = (3.0, 1.0, 2.0, 1.0)


def make_rows(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), generator=generator)
    return Batch(
        input_ids=tokens[:, :-1],
        targets=tokens[:, 1:].clone(),
        seq_idx=torch.zeros(ROWS, LENGTH, dtype=torch.int32),
        source=torch.zeros(ROWS, dtype=torch.int64),
        num_bytes=torch.full((ROWS,), 4),
        row_ids=torch.arange(ROWS),
    )


class Stream(TrainingData):
    """Steps whose tokens depend on the step alone."""

    fingerprint, tokenizer_fingerprint, vocab_size = "stream", "tokens", VOCAB  # type: ignore[assignment]
    store_folders, exposures = {}, {}  # type: ignore[assignment]

    def __init__(self) -> None:
        tokens = ROWS * LENGTH
        budget = TokenBudget(STEPS * tokens, tokens, LENGTH, ROWS)
        super().__init__(budget, ["web"], Mixture({"web": 1.0}))

    def save_tokenizer(self, path: Path) -> None:
        path.write_text("{}")

    def train_dataloader(self) -> DataLoader[Any]:
        steps: Any = [[make_rows(step)] for step in range(STEPS)]
        return StepLoader(steps, num_workers=0, sampler=StepSampler(self._start_step, STEPS))

    def val_dataloader(self) -> list[DataLoader[Any]]:
        return [DataLoader([make_rows(99)], batch_size=None)]  # type: ignore[arg-type]


class Given(LanguageModelingModule):
    """Logs a given figure for each step."""

    figures: Sequence[float] = FIGURES

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.global_step:
            self.log("val/given", self.figures[self.global_step // 2 - 1])


class Seen(lightning.Callback):
    """Keeps the weights of every validation."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, Tensor]] = {}

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.weights[trainer.global_step] = weights_of(pl_module.model)


class Stopped(Exception):  # noqa: N818 - what ends a run
    """Stops a run."""


class StopAt(lightning.Callback):
    """Stops a run before a validation or a step."""

    def __init__(self, hook: str, step: int) -> None:
        self._step = step
        setattr(self, hook, self._stop)

    def _stop(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self._step:
            raise Stopped


class Run:
    """A run with given figures."""

    def __init__(
        self,
        folder: Path,
        *,
        resume: Path | None = None,
        figures: Sequence[float] = FIGURES,
        ema: bool = False,
        save_every: int = 100,
        callbacks: Sequence[lightning.Callback] = (),
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.module = Given(
            MambaLM(CONFIG, ReferenceScan()),
            AdamW(lr=0.01, weight_decay=0.1),
            Constant(total_tokens=1_000),
            {"web": 1.0},
            Objective(max_grad_norm=1.0),
            tokens_per_step=ROWS * LENGTH,
        )
        self.module.figures = figures
        self.data = Stream()
        self.seen = Seen()
        averages = [Ema(str(folder / "model_ema"), 0.5)] if ema else []
        self.selection = Selection(
            str(folder / "model_best"), **({"monitor": "val/given"} | options)
        )
        every = callbacks[0] if callbacks else None
        self.trainer = lightning.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            max_epochs=1,
            max_steps=STEPS,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            val_check_interval=2,
            check_val_every_n_epoch=None,
            plugins=[DurableCheckpointIO()],
            callbacks=[
                *averages,
                *([every] if every else []),
                self.seen,
                self.selection,
                DueValidation(),
                Checkpoints(str(folder / "checkpoints"), every_n_steps=save_every, keep_last=STEPS),
            ],
        )
        self.trainer.validate(self.module, self.data, verbose=False)
        self.trainer.fit(self.module, self.data, ckpt_path=resume, weights_only=True)
        for average in averages:
            average.restore(self.module.model)
        self.selection.restore(self.module.model)
        self.trainer.validate(self.module, self.data, verbose=False)
        self.selection.save(self.module.model, self.data)

    @property
    def best(self) -> dict[str, Tensor]:
        return weights_of(load_pretrained(self.folder / "model_best", ReferenceScan()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Run]:
    """Return whole(ema): an uninterrupted run with a checkpoint of every step."""

    @functools.cache
    def _whole(ema: bool) -> Run:
        return Run(tmp_path_factory.mktemp("whole"), ema=ema, save_every=1)

    return _whole


def stop(folder: Path, stop_at: StopAt, **options: Any) -> None:
    with pytest.raises(Stopped):
        Run(folder, callbacks=[stop_at], **options)


def weights_of(model: MambaLM) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def assert_equal(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("figures", "mode", "step"),
    [
        (FIGURES, "min", 4),  # the first of two equal ones
        (FIGURES, "max", 2),
        ((4.0, 3.0, 2.0, 1.0), "min", 8),
        ((math.nan, 3.0, -math.inf, math.nan), "min", 4),
    ],
)
def test_the_weights_of_the_best_validation_are_written(
    tmp_path: Path, figures: Sequence[float], mode: str, step: int
) -> None:
    run = Run(tmp_path, figures=figures, mode=mode)
    before = weights_of(run.module.model)

    assert_equal(run.best, run.seen.weights[step])
    assert run.selection.description["step"] == step
    assert run.selection.description["figure"] == figures[step // 2 - 1]
    assert_equal(before, run.seen.weights[8])  # the model is left as it was
    assert (tmp_path / "model_best" / "tokenizer.json").exists()


def test_the_last_step_is_a_candidate_where_the_fit_does_not_validate_it(tmp_path: Path) -> None:
    class Odd(Run):
        pass

    run = Odd.__new__(Odd)
    figures = [3.0, 2.0, 1.0]
    original = lightning.Trainer.__init__

    def every_third(trainer: Any, *args: Any, **options: Any) -> None:
        original(trainer, *args, **(options | {"val_check_interval": 3}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightning.Trainer, "__init__", every_third)
        patch.setattr(Given, "on_validation_epoch_end", _by_third(figures))
        run.__init__(tmp_path)  # type: ignore[misc]

    assert run.selection.description["step"] == 8
    assert_equal(run.best, weights_of(run.module.model))


def _by_third(figures: Sequence[float]) -> Any:
    def log(module: Any) -> None:
        LanguageModelingModule.on_validation_epoch_end(module)
        if module.global_step:
            module.log("val/given", figures[math.ceil(module.global_step / 3) - 1])

    return log


def test_a_run_without_a_number_selects_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, figures=(math.nan,) * 4)

    assert run.selection.description["figure"] is None
    assert not (tmp_path / "model_best").exists()


def test_averaged_weights_are_selected_where_they_are_validated(
    whole: Callable[[bool], Run],
) -> None:
    averaged, plain = whole(True), whole(False)
    name = "backbone.embedding.weight"

    assert_equal(averaged.best, averaged.seen.weights[4])
    assert not torch.equal(averaged.best[name], plain.seen.weights[4][name])


@pytest.mark.parametrize(("step", "ema"), [(1, False), (4, True), (5, True), (8, False), (8, True)])
def test_a_resumed_run_selects_what_an_uninterrupted_one_does(
    tmp_path: Path, whole: Callable[[bool], Run], step: int, ema: bool
) -> None:
    checkpoint = whole(ema).folder / "checkpoints" / checkpoint_name(step)
    resumed = Run(tmp_path, resume=checkpoint, ema=ema)

    assert resumed.selection.description == whole(ema).selection.description
    assert_equal(resumed.best, whole(ema).best)


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("step", [4, 8])
@pytest.mark.parametrize("hook", ["on_validation_start", "on_validation_end"])
def test_a_run_stopped_in_a_validation_makes_up_for_it(
    tmp_path: Path, whole: Callable[[bool], Run], hook: str, step: int, ema: bool
) -> None:
    """A checkpoint is saved before its validation; after the last step no fit starts."""
    falling = (4.0, 3.0, 2.0, 1.0)
    straight = Run(tmp_path / "straight", figures=falling, ema=ema)
    stop(tmp_path / "stopped", StopAt(hook, step), save_every=4, figures=falling, ema=ema)
    saved = tmp_path / "stopped" / "checkpoints" / checkpoint_name(step)
    resumed = Run(tmp_path / "stopped", resume=saved, figures=falling, ema=ema)

    assert resumed.selection.description == straight.selection.description
    assert resumed.selection.description["step"] == 8
    assert_equal(resumed.best, straight.best)
    assert_equal(weights_of(resumed.module.model), weights_of(straight.module.model))


@pytest.mark.parametrize(
    ("figures", "patience", "last"),
    [((1.0, 2.0, 3.0, 4.0), 1, 4), ((2.0, 3.0, 1.0, 4.0), 2, 8)],
)
def test_a_run_stops_after_patience_is_exhausted(
    tmp_path: Path, figures: Sequence[float], patience: int, last: int
) -> None:
    run = Run(tmp_path, figures=figures, patience=patience)

    assert run.trainer.global_step == last
    stopped = last if last < STEPS else None
    assert run.selection.description["stopped_at_step"] == stopped
    assert_equal(run.best, run.seen.weights[2 * (figures.index(1.0) + 1)])


@pytest.mark.parametrize("step", [4, 6])
def test_a_resumed_run_stops_where_an_uninterrupted_one_does(tmp_path: Path, step: int) -> None:
    figures = (1.0, 2.0, 3.0, 0.0)
    whole = Run(tmp_path / "whole", figures=figures, patience=2, save_every=2)
    checkpoint = tmp_path / "whole" / "checkpoints" / checkpoint_name(step)
    resumed = Run(tmp_path / "resumed", figures=figures, patience=2, resume=checkpoint)

    assert resumed.trainer.global_step == whole.trainer.global_step == 6
    assert resumed.selection.description == whole.selection.description
    assert_equal(resumed.best, whole.best)
    assert_equal(weights_of(resumed.module.model), weights_of(whole.module.model))


def test_a_figure_that_no_validation_gives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'val/web/f1'.*there are: .*val/web/nll"):
        Run(tmp_path, monitor="val/web/f1")


def test_an_average_behind_it_and_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.trainer.callbacks.append(Ema("model_ema"))  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="after ema"):
        run.selection.on_fit_start(run.trainer, run.module)
    run.selection.load_state_dict(
        run.selection.state_dict() | {"weights": {"backbone.embedding.weight": torch.zeros(3, 3)}}
    )
    with pytest.raises(CheckpointError, match="of another model"):
        run.selection.save(run.module.model, run.data)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"mode": "best"}, "allowed: min, max"), ({"patience": 0}, "patience must be")],
)
def test_impossible_settings_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Selection("model_best", **options)
