"""The average of the weights: its numbers, its place in checkpoints, and who sees it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from biomamba.data.batches import PIECE_DTYPE, Batch, StepLoader, StepSampler
from biomamba.data.datamodule import TrainingData
from biomamba.data.mixture import Mixture, TokenBudget
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.checkpoint import load_pretrained
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import CheckpointError
from biomamba.training.callbacks.averaging import Ema
from biomamba.training.callbacks.checkpoint import Checkpoints
from biomamba.training.checkpoint_io import DurableCheckpointIO, checkpoint_name
from biomamba.training.module import LanguageModelingModule, Objective
from biomamba.training.optimizer import AdamW, Constant

VOCAB, LENGTH, ROWS, STEPS, DECAY = 16, 4, 2, 6, 0.75
CONFIG = Mamba2Config(d_model=8, n_layer=2, vocab_size=VOCAB, d_state=4, headdim=4)


def make_rows(step: int) -> Batch:
    tokens = torch.randint(
        0, VOCAB, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(step)
    )
    return Batch(
        input_ids=tokens[:, :-1],
        targets=tokens[:, 1:].clone(),
        seq_idx=torch.zeros(ROWS, LENGTH, dtype=torch.int32),
        source=torch.zeros(ROWS, dtype=torch.int64),
        num_bytes=torch.full((ROWS,), 4),
        row_ids=torch.arange(ROWS),
        pieces=np.array([(row, 0, row, 0, LENGTH) for row in range(ROWS)], dtype=PIECE_DTYPE),
    )


class Stream(TrainingData):
    """Six steps; their tokens depend on the step alone."""

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


class Watch(lightning.Callback):
    """Keeps the weights after every step, and those that validation sees."""

    def __init__(self) -> None:
        self.behind: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.behind.append(weights_of(pl_module.model))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *unused: Any) -> None:
        self.behind.append(weights_of(pl_module.model))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.validated.append(weights_of(pl_module.model))


class Run:
    """A run of the tiny model with an average."""

    def __init__(
        self,
        folder: Path,
        *,
        resume: Path | None = None,
        bad_steps: Sequence[int] = (),
        validate: bool = True,
        callbacks: Sequence[lightning.Callback] = (),
    ) -> None:
        torch.manual_seed(0)
        self.module = LanguageModelingModule(
            MambaLM(CONFIG, ReferenceScan()),
            AdamW(lr=0.01, weight_decay=0.1),
            Constant(total_tokens=1_000),
            {"web": 1.0},
            Objective(max_grad_norm=1.0),
            tokens_per_step=ROWS * LENGTH,
        )
        self.bad_steps = bad_steps
        self.ema = Ema(str(folder / "model_ema"), DECAY, validate=validate)
        self.watch = Watch()
        self.trainer = lightning.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            max_epochs=1,
            max_steps=STEPS,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            val_check_interval=3,
            check_val_every_n_epoch=None,
            plugins=[DurableCheckpointIO()],
            callbacks=[
                *callbacks,
                self.ema,
                self.watch,
                Checkpoints(str(folder / "checkpoints"), every_n_steps=1, keep_last=STEPS),
            ],
        )
        self._break_steps()
        data = Stream()
        self.trainer.fit(self.module, data, ckpt_path=resume, weights_only=True)
        self.ema.save(self.module.model, data)

    def _break_steps(self) -> None:
        module, backward = self.module, self.module._backward

        def faulty(batch: Sequence[Batch], step_tokens: Tensor) -> Tensor:
            nll_sum = backward(batch, step_tokens)
            return nll_sum * torch.nan if module.global_step in self.bad_steps else nll_sum

        module._backward = faulty  # type: ignore[method-assign]


def weights_of(model: MambaLM) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def average_in(checkpoint: Path) -> dict[str, Tensor]:
    loaded = torch.load(checkpoint, weights_only=True)
    found: dict[str, Tensor] = loaded["callbacks"]["Ema"]["average"]
    return found


def saved_model(folder: Path) -> dict[str, Tensor]:
    return weights_of(load_pretrained(folder, ReferenceScan()))


def test_the_average_is_that_of_the_definition(tmp_path: Path) -> None:
    run = Run(tmp_path)
    expected = {name: weight.double() for name, weight in run.watch.behind[0].items()}
    for weights in run.watch.behind[1:]:
        for name, weight in weights.items():
            expected[name] = DECAY * expected[name] + (1 - DECAY) * weight.double()
    found = saved_model(tmp_path / "model_ema")
    for name, average in expected.items():
        torch.testing.assert_close(found[name].double(), average, rtol=1e-6, atol=1e-7)
    assert (tmp_path / "model_ema" / "tokenizer.json").exists()


def test_skipped_steps_do_not_move_the_average(tmp_path: Path) -> None:
    run = Run(tmp_path, bad_steps=[1, 2])
    folder = tmp_path / "checkpoints"
    before, *skipped = (average_in(folder / checkpoint_name(step)) for step in (1, 2, 3))
    for average in skipped:
        assert_equal(average, before)
    assert run.module.guard.skipped_steps == 2
    assert not torch.equal(
        average_in(folder / checkpoint_name(4))["backbone.embedding.weight"],
        before["backbone.embedding.weight"],
    )


@pytest.mark.parametrize("half", [1, 3, 5])
def test_a_resumed_average_is_that_of_an_uninterrupted_run(tmp_path: Path, half: int) -> None:
    whole = Run(tmp_path / "whole")
    checkpoint = tmp_path / "whole" / "checkpoints" / checkpoint_name(half)
    resumed = Run(tmp_path / "resumed", resume=checkpoint)
    assert_equal(weights_of(resumed.module.model), weights_of(whole.module.model))
    models = (saved_model(tmp_path / name / "model_ema") for name in ("resumed", "whole"))
    assert_equal(*models)


def test_validation_sees_the_average_and_training_does_not(tmp_path: Path) -> None:
    averaged = Run(tmp_path / "averaged")
    plain = Run(tmp_path / "plain", validate=False)
    for seen, expected in zip(averaged.watch.behind, plain.watch.behind, strict=True):
        assert_equal(seen, expected)
    checkpoints = tmp_path / "averaged" / "checkpoints"
    for seen, step in zip(averaged.watch.validated, (3, 6), strict=True):
        assert_equal(seen, average_in(checkpoints / checkpoint_name(step)))
    for seen, step in zip(plain.watch.validated, (3, 6), strict=True):
        assert_equal(seen, plain.watch.behind[step])
    assert_equal(weights_of(averaged.module.model), averaged.watch.behind[-1])


class Failing(lightning.Callback):
    """Fails in the middle of a validation."""

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        raise RuntimeError("no room")


def test_the_weights_come_back_after_a_failed_validation(tmp_path: Path) -> None:
    plain = Run(tmp_path / "plain")
    failing = Run.__new__(Run)
    with pytest.raises(RuntimeError, match="no room"):
        failing.__init__(tmp_path / "failing", callbacks=[Failing()])  # type: ignore[misc]
    assert_equal(weights_of(failing.module.model), plain.watch.behind[3])


def test_an_average_of_another_model_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.ema.load_state_dict({"average": {"backbone.embedding.weight": torch.zeros(3, 3)}})
    with pytest.raises(CheckpointError, match="of another model"):
        run.ema.on_train_start(run.trainer, run.module)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"decay must be .* below 1, found {decay}"):
        Ema("model_ema", decay)
