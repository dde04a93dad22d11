"""What a training script does without token stores: stream, mix, tokenize and pack with `datasets`.

`mixed_texts` tokenizes while training. `mixed_ids` reads documents that were tokenized beforehand,
which isolates the cost of streaming and mixing. Rows hold the concatenated stream, cut every
seq_len tokens, as most scripts do it; nothing is shuffled, so nothing is charged for that.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import torch

from biomamba.data.tokenizer import Tokenizer

_NUM_FILES = 4
_SEED = 0

# Else closing an unfinished stream sleeps five seconds for every level of nesting.
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0


def write_parquet(folder: Path, name: str, column: str, values: Sequence[Any]) -> None:
    """Write one column as files of equal size."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(_NUM_FILES):
        kind = pa.string() if column == "text" else pa.list_(pa.uint16())
        array = pa.array(values[part::_NUM_FILES], type=kind)
        path = folder / f"{name}-{column}-{part}.parquet"
        pyarrow.parquet.write_table(pa.table({column: array}), path)


def mixed_texts(
    folder: Path, weights: dict[str, float], tokenizer: Tokenizer
) -> Iterator[list[int]]:
    """Iterate over documents as ids, tokenized on the way."""

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": tokenizer.encode_batch(batch["text"])}

    mixed = _interleaved(folder, weights, "text")
    for row in mixed.map(encode, batched=True, remove_columns=["text"]):
        yield [*row["ids"], tokenizer.eod_id]


def mixed_ids(folder: Path, weights: dict[str, float], eod_id: int) -> Iterator[list[int]]:
    """Iterate over documents as ids that the files hold."""
    for row in _interleaved(folder, weights, "ids"):
        yield [*row["ids"], eod_id]


def packed(
    documents: Iterable[list[int]], seq_len: int, num_rows: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Iterate over (inputs, targets) of num_rows rows each."""
    size = num_rows * seq_len
    stream: list[int] = []
    for ids in documents:
        stream += ids
        while len(stream) > size:
            tokens = torch.tensor(stream[: size + 1])
            yield tokens[:-1].view(num_rows, seq_len), tokens[1:].view(num_rows, seq_len)
            del stream[:size]


def _interleaved(folder: Path, weights: dict[str, float], column: str) -> Any:
    streams = [
        datasets.load_dataset(
            "parquet",
            data_files=sorted(str(path) for path in folder.glob(f"{name}-{column}-*.parquet")),
            split="train",
            streaming=True,
        )
        for name in weights
    ]
    return datasets.interleave_datasets(
        streams,
        probabilities=list(weights.values()),
        seed=_SEED,
        stopping_strategy="all_exhausted",
    )
