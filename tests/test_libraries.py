"""Faults of the libraries that the design works around; an upstream fix makes a test here fail.

Each test asserts the behavior that one would wish for and is expected to fail in one known way.
When one passes, see whether the part of the design that its reason names can become simpler.
"""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset as HubDataset
from datasets import IterableDataset as HubStream
from datasets import interleave_datasets, load_dataset
from datasets.distributed import split_dataset_by_node
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.cloud_io import _atomic_save
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from torch.utils.data._utils import worker as torch_worker

pytestmark = pytest.mark.filterwarnings("ignore")
NUM_DOCUMENTS = 400
REFUSAL = pytest.fail.Exception  # what pytest.raises raises when nothing was raised


def stream(num_shards: int = 4, num_documents: int = NUM_DOCUMENTS) -> HubStream:
    """Return documents that are numbered in order."""
    rows = HubDataset.from_dict({"id": list(range(num_documents))})
    return rows.to_iterable_dataset(num_shards=num_shards)


def shuffled() -> HubStream:
    return stream().shuffle(seed=0, buffer_size=100)


def ids(rows: Any) -> list[int]:
    return [row["id"] for row in rows]


def resumed(make: Callable[[], HubStream], taken: int) -> list[int]:
    """Take some documents, save the state, and read the rest from a fresh stream."""
    first, second = make(), make()
    head = ids(islice(iter(first), taken))
    second.load_state_dict(first.state_dict())
    return head + ids(second)


@pytest.mark.xfail(
    raises=AssertionError, reason="data/streaming shuffles in blocks that it can read again"
)
def test_a_shuffled_stream_loses_no_document_on_resume() -> None:
    assert set(resumed(shuffled, taken=150)) == set(range(NUM_DOCUMENTS))


@pytest.mark.xfail(
    raises=AssertionError, reason="data/streaming shuffles in blocks that it can read again"
)
def test_a_shuffled_stream_repeats_no_document_on_resume() -> None:
    found = resumed(shuffled, taken=150)
    assert len(found) == len(set(found))


@pytest.mark.xfail(raises=IndexError, reason="data/streaming deals out its readers by itself")
def test_the_state_of_a_worker_with_few_shards_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    info = torch_worker.WorkerInfo(id=0, num_workers=2, seed=0, dataset=None)
    monkeypatch.setattr(torch_worker, "_worker_info", info)
    assert resumed(shuffled, taken=20)


@pytest.mark.xfail(raises=REFUSAL, reason="states carry a fingerprint, and no part of one rank")
def test_the_state_of_one_of_two_ranks_is_refused_by_a_single_one() -> None:
    rank, single = split_dataset_by_node(stream(), rank=0, world_size=2), stream()
    list(islice(iter(rank), 50))
    single.load_state_dict(rank.state_dict())
    with pytest.raises(ValueError, match="world_size"):
        next(iter(single))


@pytest.mark.xfail(raises=AssertionError, reason="the mixture shuffles every epoch of a source")
def test_a_source_that_starts_again_has_another_order() -> None:
    rare = stream(1, num_documents=20).shuffle(seed=0, buffer_size=100)
    common = HubDataset.from_dict({"id": [-1] * NUM_DOCUMENTS}).to_iterable_dataset()
    mixed = interleave_datasets(
        [rare, common], probabilities=[0.2, 0.8], seed=0, stopping_strategy="all_exhausted"
    )
    order = [number for number in ids(mixed) if number >= 0]
    assert order[:20] != order[20:40]


@pytest.mark.xfail(raises=pa.ArrowInvalid, reason="prepare reads Parquet itself, before a run")
def test_a_parquet_file_without_rows_is_no_fault(tmp_path: Path) -> None:
    files = [tmp_path / "empty.parquet", tmp_path / "full.parquet"]
    for path, texts in zip(files, ([], ["text"]), strict=True):
        pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path)
    names = [str(path) for path in files]
    rows = load_dataset("parquet", data_files=names, split="train", streaming=True)
    assert [row["text"] for row in rows] == ["text"]


@pytest.mark.xfail(raises=REFUSAL, reason="prepare checks raw files, train checks token stores")
def test_a_flipped_bit_in_a_parquet_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "text.parquet"
    table = pa.table({"text": ["some words"]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    content = bytearray(path.read_bytes())
    content[content.index(b"words")] ^= 1
    path.write_bytes(content)
    with pytest.raises(pa.ArrowException):
        pq.read_table(path)


class Counting(LightningModule):
    """Remember which items it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[int] = []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen.append(int(batch))
        return self.layer(batch.float().view(1, 1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Items:
    """A loader of numbers that resumes; it does not know its length."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        while self.position < 40:
            self.position += 1
            yield torch.tensor([self.position - 1])

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class CountedItems(Items):
    """The same with a length."""

    def __len__(self) -> int:
        return 40


class Moments(ModelCheckpoint):
    """Remember how many items were consumed at every save of every run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, filename="{step}", every_n_train_steps=2, save_top_k=-1)
        self.consumed: list[int] = []

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self.consumed.append(trainer.fit_loop.epoch_loop.batch_progress.total.ready)
        super()._save_checkpoint(trainer, filepath)


def train(loader: Any, saves: Moments, *, max_steps: int, resume: bool, **settings: Any) -> list:
    """Train to a step, from the checkpoint of step 2 on if asked, and return the items seen."""
    model = Counting()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[saves],
        **settings,
    )
    checkpoint = Path(str(saves.dirpath)) / "step=2.ckpt"
    trainer.fit(model, loader, ckpt_path=checkpoint if resume else None, weights_only=False)
    return model.seen


def seen_on_resume(make: Callable[[], Any], folder: Path) -> list[int]:
    """Return the items of steps 3 and 4 after a resume at step 2."""
    train(make(), Moments(folder), max_steps=2, resume=False)
    return train(make(), Moments(folder), max_steps=4, resume=True)


def test_a_loader_that_knows_its_length_resumes_at_the_next_item(tmp_path: Path) -> None:
    assert seen_on_resume(CountedItems, tmp_path) == [2, 3]


@pytest.mark.xfail(raises=AssertionError, reason="StepSampler has the length of the whole run")
def test_a_loader_without_a_length_resumes_at_the_next_item(tmp_path: Path) -> None:
    assert seen_on_resume(Items, tmp_path) == [2, 3]


@pytest.mark.xfail(raises=AssertionError, reason="the datamodule keeps the position itself")
def test_a_plain_loader_resumes_at_the_next_item(tmp_path: Path) -> None:
    assert seen_on_resume(lambda: DataLoader(torch.arange(40)), tmp_path) == [2, 3]


@pytest.mark.xfail(raises=AssertionError, reason="one item of the loader is one optimizer step")
def test_checkpoints_are_never_written_within_a_step(tmp_path: Path) -> None:
    train(CountedItems(), Moments(tmp_path), max_steps=2, resume=False, accumulate_grad_batches=4)
    saves = Moments(tmp_path)
    train(CountedItems(), saves, max_steps=4, resume=True, accumulate_grad_batches=4)
    assert [consumed % 4 for consumed in saves.consumed] == [0] * len(saves.consumed)


@pytest.mark.xfail(
    raises=AssertionError,
    reason="training/checkpoint_io writes checkpoints",
)
def test_a_checkpoint_is_on_the_disk_before_it_replaces_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    _atomic_save({"step": 1}, str(tmp_path / "last.ckpt"))
    assert synced
