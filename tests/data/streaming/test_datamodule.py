"""The streaming datamodule: what it refuses, validation, checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from biomamba.data.batches import Batch
from biomamba.data.cleaning.near_duplicates import NearDuplicates
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.document import SplitRule
from biomamba.data.mixture import Mixture, TokenBudget
from biomamba.data.streaming.datamodule import StreamingDataModule
from biomamba.data.streaming.readers import Reading
from biomamba.data.tokenizer import Tokenizer, TrainedBpe
from biomamba.runtime.errors import ConfigError, DataError

Make = Callable[..., StreamingDataModule]


def test_the_loaders_work_without_a_trainer(make_module: Make) -> None:
    module = make_module()
    module.prepare_data()
    module.setup("fit")
    assert len(module.train_dataloader()) == 64
    assert len(module.val_dataloader()) == 3


def test_every_source_is_validated_on_the_asked_number(make_module: Make) -> None:
    for index, loader in enumerate(make_module().val_dataloader()):
        batches = list(loader)
        documents = {int(d) for batch in batches for d in batch.document.unique()}
        assert documents - {-1} == {0, 1, 2, 3, 4}
        assert {int(s) for batch in batches for s in batch.source} == {index}


def test_no_document_is_validated_and_trained_on(make_module: Make) -> None:
    module = make_module(max_val_documents=10_000)
    module.setup()
    trained = {int(k) for step in module.train_dataloader() for b in step for k in b.pieces["key"]}
    held_out = {
        int(k) for loader in module.val_dataloader() for b in loader for k in b.pieces["key"]
    }
    assert trained
    assert held_out
    assert not trained & held_out


def test_it_says_that_duplicates_stay(
    make_module: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make_module().setup()
    said = " ".join(capsys.readouterr().err.split())
    assert "duplicates and near-duplicates are not removed" in said
    assert "no benchmark is kept out" in said


def test_the_tokenizer_is_saved_beside_a_model(
    make_module: Make, tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    module = make_module()
    module.save_tokenizer(tmp_path / "tokenizer.json")
    saved = Tokenizer.load(str(tmp_path / "tokenizer.json"))
    assert saved.fingerprint == byte_tokenizer.fingerprint == module.tokenizer_fingerprint
    assert module.vocab_size == 257


def test_sizes_and_stores_are_not_known(make_module: Make) -> None:
    assert make_module().exposures == {}
    assert make_module().store_folders == {}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"mixture": Mixture({"short": 1.0})}, "must be those of sources"),
        ({"sources": {"short": ["short"], "long": ["long"], "mixed": ["long"]}}, "named once"),
        ({"max_val_documents": 0}, "max_val_documents is 0"),
        ({"split": SplitRule(0, 10)}, "val_permille 0"),
        ({"reading": Reading(num_readers=16)}, "a step has 8 rows .* num_readers = 16"),
        ({"max_repetition": 0}, "max_repetition must be .*, found 0"),
        ({"cleaning": Cleaning(exact_duplicates=True)}, "cannot find duplicates"),
        (
            {"cleaning": Cleaning(exact_duplicates=False, near_duplicates=NearDuplicates())},
            "cannot find duplicates",
        ),
        ({"tokenizer": TrainedBpe(300)}, "needs a tokenizer that is ready"),
    ],
)
def test_impossible_options_are_refused(
    changes: dict[str, Any], match: str, make_module: Make
) -> None:
    with pytest.raises(ConfigError, match=match):
        make_module(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2},
        {"mixture": Mixture({"short": 0.8, "long": 0.1, "mixed": 0.1}, block_size=100)},
        {"budget": TokenBudget(64 * 1024, 1024, 64, 2)},
        {"budget": TokenBudget(64 * 512, 512, 32, 2)},
        {"reading": Reading(num_readers=2, block_documents=8)},
        {"reading": Reading(num_readers=4, block_documents=9)},
        {"split": SplitRule(200, 101)},
    ],
)
def test_a_checkpoint_of_another_stream_is_refused(
    changes: dict[str, Any], make_module: Make
) -> None:
    state = make_module().state_dict()
    with pytest.raises(DataError, match="another stream of rows"):
        make_module(**changes).load_state_dict(state)


def test_readers_begin_anew_in_another_stream_that_is_allowed(make_module: Make) -> None:
    module = make_module(seed=2)
    module.allow_change = True
    # As a run over token stores saves it.
    module.load_state_dict({"consumed_steps": 60, "fingerprint": "other"})
    steps = list(module.train_dataloader())
    assert len(steps) == 4
    assert (steps[0][0].pieces["start"][:2] == 0).any()
    assert steps[0][0].row_ids[0] == 60 * 8


def test_other_raw_data_is_another_stream(make_module: Make, make_corpus: Any) -> None:
    module = make_module()
    corpora = module._corpora | {"long": make_corpus([["other"]], options={"name": "long"})}
    assert make_module(corpora=corpora).fingerprint != module.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": TokenBudget(128 * 512, 512, 64, 2)},
        {"budget": TokenBudget(64 * 512, 512, 64, 4)},
        {"num_workers": 2},
        {"max_val_documents": 3},
        {"max_repetition": 7},
        {"reading": Reading(num_readers=4, block_documents=8, max_bad_fraction=0.5)},
    ],
)
def test_length_micro_batch_and_workers_do_not_change_the_stream(
    changes: dict[str, Any], make_module: Make
) -> None:
    assert make_module().fingerprint == make_module(**changes).fingerprint


class Recorder(lightning.LightningModule):
    """A module of one weight that notes the pieces it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.automatic_optimization = False
        self.seen: list[tuple[int, ...]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: list[Batch], batch_idx: int) -> None:
        for part in batch:
            self.manual_backward(self.weight * 1.0)
            rows = part.row_ids.numpy()[part.pieces["row"]].tolist()
            for row, piece in zip(rows, part.pieces.tolist(), strict=True):
                self.seen.append((row, *piece[1:]))
        optimizer: Any = self.optimizers()
        optimizer.step()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        assert batch.input_ids.ndim == 2


class SaveAndStop(lightning.Callback):
    """Save a checkpoint at a step, as ModelCheckpoint does, and end the run."""

    def __init__(self, step: int, path: Path) -> None:
        self.step = step
        self.path = path

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def fit(
    module: StreamingDataModule, last_step: int, path: Path, resume: Path | None = None
) -> list[tuple[int, ...]]:
    """Train to a step, save the checkpoint there and return the pieces seen."""
    trainer = lightning.Trainer(
        max_epochs=1,
        max_steps=module.budget.num_steps,
        accelerator="cpu",
        logger=False,
        callbacks=[SaveAndStop(last_step, path)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=7,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        default_root_dir=path.parent,
    )
    recorder = Recorder()
    trainer.fit(recorder, module, ckpt_path=resume, weights_only=True)
    return recorder.seen


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_sees_the_rest_of_the_stream(
    num_workers: int, make_module: Make, tmp_path: Path
) -> None:
    expected = fit(make_module(), 64, tmp_path / "whole.ckpt")
    first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    seen = fit(make_module(num_workers=num_workers), 13, first)
    seen += fit(make_module(), 20, second, resume=first)
    budget = TokenBudget(64 * 512, 512, 64, 8)
    last = make_module(budget=budget, num_workers=num_workers)
    seen += fit(last, 64, tmp_path / "last.ckpt", resume=second)
    assert seen == expected


def test_a_state_is_plain_and_small(make_module: Make, tmp_path: Path) -> None:
    fit(make_module(), 30, tmp_path / "c.ckpt")
    module = make_module()
    checkpoint = torch.load(tmp_path / "c.ckpt", weights_only=True)
    state = checkpoint[type(module).__qualname__]
    assert json.loads(json.dumps(state)) == state
    assert state["consumed_steps"] == 30
    assert len(state["readers"]) == 4
    assert max(len(json.dumps(reader)) for reader in state["readers"]) < 200
    module.load_state_dict(state)
    assert module.state_dict() == state
