"""Write the token and index files of one shard, split by document key."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.document import SPLITS, Document, Reject, SplitRule, document_key
from biomamba.data.key_set import KeySet
from biomamba.data.manifest import INDEX_DTYPE, FileRecord, Totals
from biomamba.data.sealed import TEMPORARY_SUFFIX, move_into_place
from biomamba.data.tokenizer import Tokenizer

_DOCUMENTS_PER_BATCH = 512
_MAX_EXAMPLES = 5


@dataclass
class ShardCounts:
    """What came out of one raw shard besides its tokens.

    Attributes:
        totals: Per split.
        rejects: By reason.
        num_rows: Documents and rejects together.
        num_damaged: Rejects that were technical faults.
        examples: The first damaged rows, as `reason at place`.
    """

    totals: dict[str, Totals] = field(default_factory=lambda: dict.fromkeys(SPLITS, Totals()))
    rejects: Counter[str] = field(default_factory=Counter)
    num_rows: int = 0
    num_damaged: int = 0
    examples: list[str] = field(default_factory=list)

    def reject(self, reject: Reject) -> None:
        """Count a reject."""
        self.rejects[reject.reason] += 1
        if reject.is_damaged:
            self.num_damaged += 1
            if len(self.examples) < _MAX_EXAMPLES:
                self.examples.append(f"{reject.reason} at {reject.id}")


class ShardWriter:
    """Tokenise the documents of one shard into temporary files and commit them.

    Args:
        folder: The store.
        name: Name of the token shard, NNNNN.
        tokenizer: Encodes the texts.
        rule: Assigns documents to splits.
        keys: Keys of all earlier documents of the corpus; grows with this shard.
    """

    def __init__(
        self, folder: Path, name: str, tokenizer: Tokenizer, rule: SplitRule, keys: KeySet
    ) -> None:
        self._tokenizer = tokenizer
        self._rule = rule
        self._keys = keys
        self._files = [_SplitFiles(folder, f"{name}.{split}", tokenizer) for split in SPLITS]
        self.counts = ShardCounts()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Drop what was not committed."""
        for files in self._files:
            files.discard()

    def write(self, documents: Iterable[Document | Reject]) -> Iterator[int]:
        """Write documents; yield the number of rows done after every batch."""
        rows = iter(documents)
        while batch := list(islice(rows, _DOCUMENTS_PER_BATCH)):
            self.counts.num_rows += len(batch)
            for row in batch:
                if isinstance(row, Reject):
                    self.counts.reject(row)
            self._write_batch([row for row in batch if isinstance(row, Document)])
            yield len(batch)

    def commit(self) -> dict[str, FileRecord]:
        """Flush and rename the files of this shard and return their records."""
        records: dict[str, FileRecord] = {}
        for split, files in zip(SPLITS, self._files, strict=True):
            self.counts.totals[split] = files.totals
            records |= files.commit()
        return records

    def _write_batch(self, documents: list[Document]) -> None:
        keys = np.array([document_key(document.id) for document in documents], dtype=np.uint64)
        is_new = self._keys.take_new(keys)
        for document, fresh in zip(documents, is_new, strict=True):
            if not fresh:
                self.counts.reject(Reject("duplicate id", document.id))
        kept = [document for document, fresh in zip(documents, is_new, strict=True) if fresh]
        keys = keys[is_new]
        encoded = self._tokenizer.encode_batch([document.text for document in kept])
        for number, split in enumerate(self._rule.indices(keys)):
            text_bytes = len(kept[number].text.encode())
            self._files[split].append(encoded[number], text_bytes, int(keys[number]))


class _SplitFiles:
    """The two files of one split of one shard."""

    def __init__(self, folder: Path, stem: str, tokenizer: Tokenizer) -> None:
        self._paths = {kind: folder / f"{stem}.{kind}" for kind in ("bin", "idx")}
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._eod_id = tokenizer.eod_id
        self._index: list[tuple[int, int, int]] = []
        self._stream: IO[bytes] | None = None
        self._digest = sha256()
        self._num_tokens = 0
        self._num_bytes = 0

    @property
    def totals(self) -> Totals:
        return Totals(len(self._index), self._num_tokens, self._num_bytes)

    def append(self, ids: list[int], text_bytes: int, key: int) -> None:
        """Append one document."""
        if self._stream is None:
            self._stream = self._temporary("bin").open("wb")
        tokens = np.array([*ids, self._eod_id], dtype=self._dtype).tobytes()
        self._stream.write(tokens)
        self._digest.update(tokens)
        self._num_tokens += len(ids) + 1
        self._num_bytes += text_bytes
        self._index.append((self._num_tokens, text_bytes, key))

    def commit(self) -> dict[str, FileRecord]:
        """Put both files in place; a split without documents has none."""
        if self._stream is None:
            return {}
        _flush(self._stream)
        self._stream.close()
        index = np.array(self._index, dtype=INDEX_DTYPE).tobytes()
        with self._temporary("idx").open("wb") as file:
            file.write(index)
            _flush(file)
        for kind, path in self._paths.items():
            move_into_place(self._temporary(kind), path)
        return {
            self._paths["bin"].name: FileRecord(
                self._num_tokens * self._dtype.itemsize, self._digest.hexdigest()
            ),
            self._paths["idx"].name: FileRecord(len(index), sha256(index).hexdigest()),
        }

    def discard(self) -> None:
        """Remove temporary files."""
        if self._stream is not None:
            self._stream.close()
        for kind in self._paths:
            self._temporary(kind).unlink(missing_ok=True)

    def _temporary(self, kind: str) -> Path:
        path = self._paths[kind]
        return path.with_name(path.name + TEMPORARY_SUFFIX)


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest little-endian type that holds every id."""
    return np.dtype("<u2") if vocab_size <= np.iinfo(np.uint16).max + 1 else np.dtype("<u4")


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def read_index(path: Path) -> NDArray[Any]:
    """Read an index file as an array of INDEX_DTYPE."""
    return np.fromfile(path, dtype=INDEX_DTYPE)
