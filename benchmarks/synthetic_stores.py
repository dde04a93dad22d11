"""Token stores without the prepare stage: of random tokens in any size, or of given documents."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biomamba.data.store.format import (
    FORMAT_VERSION,
    INDEX_DTYPE,
    FileRecord,
    Manifest,
    Totals,
    record_of,
)

VOCAB_SIZE = 50_277
EOD_ID = 0
# Mean tokens of a document: PubMed abstracts, and pages as C4 and Wikipedia have them.
MEAN_TOKENS = {"pubmed": 350, "web": 575, "wikipedia": 820}
_SIGMA = 0.5  # of the log-normal lengths
_TOKENS_PER_SHARD = 5_000_000
_NUM_VAL = 4  # documents held out of every shard

Shard = tuple[NDArray[np.uint16], NDArray[np.int64]]  # tokens, documents one after the other


def random_shards(source: str, num_tokens: int, seed: int) -> Iterator[Shard]:
    """Iterate over shards of random tokens in documents of the lengths of a source."""
    random = np.random.default_rng([seed, sorted(MEAN_TOKENS).index(source)])
    while num_tokens > 0:
        asked = min(num_tokens, _TOKENS_PER_SHARD)
        mean = np.log(MEAN_TOKENS[source]) - _SIGMA**2 / 2
        num_documents = _NUM_VAL + 1 + asked // MEAN_TOKENS[source]
        lengths = random.lognormal(mean, _SIGMA, num_documents).astype(np.int64) + 2
        tokens = random.integers(1, VOCAB_SIZE, lengths.sum(), dtype=np.uint16)
        yield tokens, lengths
        num_tokens -= asked


def encoded_shards(documents: Sequence[Sequence[int]], num_shards: int = 4) -> Iterator[Shard]:
    """Iterate over shards of documents that are given as ids without their end."""
    for part in range(num_shards):
        chosen = [np.array([*ids, EOD_ID], dtype=np.uint16) for ids in documents[part::num_shards]]
        yield np.concatenate(chosen), np.array([len(ids) for ids in chosen], dtype=np.int64)


def write_store(folder: Path, shards: Iterable[Shard]) -> int:
    """Write a store in the format that training reads and return its training tokens.

    A few documents of every shard become the validation split.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    totals = {"train": Totals(), "val": Totals(), "test": Totals()}
    files: dict[str, FileRecord] = {}
    names = []
    for number, (tokens, lengths) in enumerate(shards):
        names.append(f"{number:05d}")
        ends = np.cumsum(lengths)
        tokens[ends - 1] = EOD_ID
        held_out = int(ends[_NUM_VAL - 1])
        parts = {
            "val": (tokens[:held_out], lengths[:_NUM_VAL]),
            "train": (tokens[held_out:], lengths[_NUM_VAL:]),
        }
        for split, (split_tokens, split_lengths) in parts.items():
            stem = folder / f"{number:05d}.{split}"
            index = np.zeros(len(split_lengths), dtype=INDEX_DTYPE)
            index["end"] = np.cumsum(split_lengths)
            index["num_bytes"] = 4 * split_lengths
            index["key"] = random.integers(0, 2**63, len(index), dtype=np.uint64)
            split_tokens.tofile(stem.with_name(f"{stem.name}.bin"))
            index.tofile(stem.with_name(f"{stem.name}.idx"))
            totals[split] += Totals(
                len(index), len(split_tokens), int(index["num_bytes"].sum(dtype=np.int64))
            )
            for kind in ("bin", "idx"):
                path = stem.with_name(f"{stem.name}.{kind}")
                files[path.name] = record_of(path)
    _manifest(folder, names, totals, files).write(folder)
    return totals["train"].tokens


def _manifest(
    folder: Path, names: list[str], totals: dict[str, Totals], files: dict[str, FileRecord]
) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        corpus=folder.name,
        domain=folder.name,
        licence="synthetic",
        tokenizer="none",
        vocab_size=VOCAB_SIZE,
        eod_id=EOD_ID,
        dtype="uint16",
        split={"val_permille": 1, "test_permille": 0},
        settings={},
        cleaning={},
        code={},
        shards=names,
        totals=totals,
        rejects={},
        files=files,
    )
