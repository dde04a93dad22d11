"""A run of eight steps on bytes that writes TensorBoard events, to be stopped and resumed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from biomamba.data.batches import Batch, StepLoader, StepSampler
from biomamba.data.datamodule import TrainingData
from biomamba.data.mixture import Mixture, TokenBudget
from biomamba.data.tokenizer import Tokenizer
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.training.callbacks.checkpoint import Checkpoints
from biomamba.training.checkpoint_io import DurableCheckpointIO, checkpoint_name
from biomamba.training.module import LanguageModelingModule, Objective
from biomamba.training.optimizer import AdamW, Constant
from biomamba.training.resume import Start, logger_options
from biomamba.training.run import put_before_now

LENGTH, ROWS, STEPS = 8, 2, 8


def _rows(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(1, 257, (ROWS, LENGTH + 1), generator=generator)
    return Batch(
        input_ids=tokens[:, :-1],
        targets=tokens[:, 1:].clone(),
        seq_idx=torch.zeros(ROWS, LENGTH, dtype=torch.int32),
        source=torch.tensor([0, 1]),
        num_bytes=torch.full((ROWS,), LENGTH),
        row_ids=torch.arange(ROWS),
    )


class ByteStream(TrainingData):
    """Steps whose bytes depend on the step alone."""

    fingerprint, tokenizer_fingerprint, vocab_size = "stream", "bytes", 257  # type: ignore[assignment]
    store_folders, exposures = {}, {}  # type: ignore[assignment]

    def __init__(self) -> None:
        tokens = ROWS * LENGTH
        budget = TokenBudget(STEPS * tokens, tokens, LENGTH, ROWS)
        super().__init__(budget, ["web", "pubmed"], Mixture({"web": 0.5, "pubmed": 0.5}))

    def save_tokenizer(self, path: Path) -> None:
        Tokenizer.byte_tokenizer().save(path)

    def train_dataloader(self) -> DataLoader[Any]:
        steps: Any = [[_rows(step)] for step in range(STEPS)]
        return StepLoader(steps, num_workers=0, sampler=StepSampler(self._start_step, STEPS))

    def val_dataloader(self) -> list[DataLoader[Any]]:
        rows: Any = [_rows(99)]
        return [DataLoader(rows, batch_size=None) for _ in self.source_names]


class _StopError(Exception):
    pass


class _StopBefore(lightning.Callback):
    """Stops before a step, like a defect."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            raise _StopError


@dataclass
class SmallRun:
    """A run in a folder; its events are in `tensorboard`."""

    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    module: Any = None

    def start(
        self,
        callbacks: Sequence[lightning.Callback],
        *,
        resume: int | None = None,
        stop: int | None = None,
    ) -> "SmallRun":
        """Train from the checkpoint of a step to the end, or to a step where it breaks down."""
        torch.manual_seed(0)
        self.module = self._new_module()
        target = "lightning.pytorch.loggers.TensorBoardLogger"
        path = None if resume is None else self.folder / "checkpoints" / checkpoint_name(resume)
        logger = logger_options(target, Start(path, resume or 0))
        put_before_now(self.folder)
        trainer = lightning.Trainer(
            default_root_dir=self.folder,
            accelerator="cpu",
            max_epochs=1,
            max_steps=STEPS,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            val_check_interval=2,
            check_val_every_n_epoch=None,
            plugins=[DurableCheckpointIO()],
            logger=TensorBoardLogger(
                str(self.folder), name="tensorboard", version="", default_hp_metric=False, **logger
            ),
            callbacks=[
                *callbacks,
                *([] if stop is None else [_StopBefore(stop)]),
                Checkpoints(str(self.folder / "checkpoints"), every_n_steps=1, keep_last=STEPS),
            ],
            **self.options,
        )
        data = ByteStream()
        if path is None:
            trainer.validate(self.module, data, verbose=False)
        if stop is None:
            trainer.fit(self.module, data, ckpt_path=path, weights_only=True)
        else:
            with pytest.raises(_StopError):
                trainer.fit(self.module, data, ckpt_path=path, weights_only=True)
        for each in trainer.loggers:
            each.finalize("success")
        return self

    @property
    def events(self) -> EventAccumulator:
        """What TensorBoard reads."""
        return EventAccumulator(str(self.folder / "tensorboard"), {"tensors": 0}).Reload()

    def steps(self) -> dict[str, list[int]]:
        """Return the steps of the points of every tag, in the order in which they were written."""
        return {tag: [e.step for e in self._points(tag)] for tag in self.events.Tags()["tensors"]}

    def texts(self, tag: str) -> list[str]:
        """Return the texts of a tag."""
        return [e.tensor_proto.string_val[0].decode() for e in self._points(tag)]

    def _points(self, tag: str) -> list[Any]:
        # Files of one second are read in the order of their numbers as text: .10 before .9.
        return sorted(self.events.Tensors(tag), key=lambda event: event.wall_time)

    def _new_module(self) -> LanguageModelingModule:
        config = Mamba2Config(d_model=8, n_layer=2, vocab_size=257, d_state=4, headdim=4)
        return LanguageModelingModule(
            MambaLM(config, ReferenceScan()),
            AdamW(lr=0.01, weight_decay=0.1),
            Constant(total_tokens=1_000),
            {"web": 0.5, "pubmed": 0.5},
            Objective(max_grad_norm=0.1),
            tokens_per_step=ROWS * LENGTH,
        )


@pytest.fixture
def small_run(tmp_path: Path) -> Callable[[str], SmallRun]:
    """Return small_run(name): a run in a folder of this name, which has not started."""

    def new(name: str) -> SmallRun:
        (tmp_path / name).mkdir()
        return SmallRun(tmp_path / name)

    return new
