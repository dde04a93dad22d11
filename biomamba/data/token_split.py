"""The documents of one split over many shards and stores, read from memory-mapped files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from biomamba.data.document import SPLITS
from biomamba.data.manifest import read_index
from biomamba.data.store_reader import OpenStore
from biomamba.data.supervision import Supervision

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class DocumentTable:
    """Where each document lies; all arrays are (documents,).

    Attributes:
        file: Index of its token file.
        start: First token in that file.
        length: Tokens, EOD included.
        num_bytes: UTF-8 bytes of the text.
        key: Document key.
    """

    file: Ints
    start: Ints
    length: Ints
    num_bytes: Ints
    key: NDArray[np.uint64]

    def select(self, documents: Ints) -> "DocumentTable":
        """Return the rows of some documents, in that order."""
        return DocumentTable(
            self.file[documents],
            self.start[documents],
            self.length[documents],
            self.num_bytes[documents],
            self.key[documents],
        )


class TokenSplit:
    """Random access to the tokens of the documents of one split.

    Documents are numbered in the order of the stores, their shards and the raw rows.

    Attributes:
        eod_id: Id that ends every document.
        table: Where the documents lie.
        supervision: What is learned of the documents; None: every token, all alike.
    """

    supervision: Supervision | None = None

    def __init__(
        self, files: Sequence[Path], dtype: np.dtype[Any], eod_id: int, table: DocumentTable
    ) -> None:
        self.eod_id = eod_id
        self.table = table
        self._files = list(files)
        self._dtype = dtype
        self._maps: dict[int, NDArray[Any]] = {}

    @classmethod
    def open(cls, stores: Sequence[OpenStore], split: str) -> "TokenSplit":
        """Open one split of compatible stores."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        files: list[Path] = []
        tables: list[DocumentTable] = []
        for store in stores:
            for shard in store.manifest.shards:
                name = f"{shard}.{split}.bin"
                if name in store.manifest.files:
                    index = read_index((store.folder / name).with_suffix(".idx"))
                    tables.append(_table(index, len(files)))
                    files.append(store.folder / name)
        manifest = stores[0].manifest
        return cls(files, np.dtype(manifest.dtype), manifest.eod_id, _concatenate(tables))

    def __len__(self) -> int:
        return len(self.table.length)

    @property
    def lengths(self) -> Ints:
        """Tokens of each document, EOD included."""
        return self.table.length

    @property
    def num_bytes(self) -> Ints:
        """UTF-8 bytes of the text of each document."""
        return self.table.num_bytes

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Key of each document."""
        return self.table.key

    def tokens(self, document: int) -> NDArray[Any]:
        """Return the tokens of a document as a view of its file."""
        whole = np.array([document])
        return self.parts(whole, np.zeros(1, dtype=np.int64), self.lengths[whole])[0]

    def parts(self, documents: Ints, starts: Ints, lengths: Ints) -> list[NDArray[Any]]:
        """Return parts of documents, from token `start` on, as views of their files."""
        begins = self.table.start[documents] + starts
        return [
            self._map(file)[begin:end]
            for file, begin, end in zip(
                self.table.file[documents].tolist(),
                begins.tolist(),
                (begins + lengths).tolist(),
                strict=True,
            )
        ]

    def first_by_key(self, max_documents: int | None) -> "TokenSplit":
        """Return the documents with the smallest keys: a sample that is stable and unbiased."""
        if max_documents is None or max_documents >= len(self):
            return self
        chosen = np.sort(np.argsort(self.keys, kind="stable")[:max_documents])
        return TokenSplit(self._files, self._dtype, self.eod_id, self.table.select(chosen))

    def first_tokens_by_key(self, max_tokens: int) -> "TokenSplit":
        """Return the documents with the smallest keys that hold at most so many tokens together.

        Of two numbers the smaller one gives a subset of the documents of the larger one.
        """
        order = np.argsort(self.keys, kind="stable")
        fitting = np.cumsum(self.lengths[order]) <= max_tokens
        chosen = np.sort(order[: int(np.count_nonzero(fitting))])
        return TokenSplit(self._files, self._dtype, self.eod_id, self.table.select(chosen))

    def of_length(self, min_tokens: int) -> "TokenSplit":
        """Return the documents of at least so many tokens, EOD included."""
        (chosen,) = np.nonzero(self.lengths >= min_tokens)
        return TokenSplit(self._files, self._dtype, self.eod_id, self.table.select(chosen))

    def _map(self, file: int) -> NDArray[Any]:
        tokens = self._maps.get(file)
        if tokens is None:
            tokens = self._maps[file] = _memory_map(self._files[file], self._dtype)
        return tokens

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map would be a copy of the whole file.
        return {**self.__dict__, "_maps": {}}


def _memory_map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Map a file into memory without keeping it open.

    Rows come from all shards at random, and a corpus has more shards than a process may open
    files; numpy.memmap would hold a descriptor for each.
    """
    num_bytes = path.stat().st_size
    content = torch.from_file(str(path), shared=False, size=num_bytes, dtype=torch.uint8)
    tokens = content.numpy().view(dtype)
    tokens.flags.writeable = False
    return tokens


def _table(index: NDArray[Any], file: int) -> DocumentTable:
    end = index["end"].astype(np.int64)
    start = np.concatenate([np.zeros(1, dtype=np.int64), end[:-1]])
    num_bytes = index["num_bytes"].astype(np.int64)
    return DocumentTable(np.full_like(end, file), start, end - start, num_bytes, index["key"])


def _concatenate(tables: Sequence[DocumentTable]) -> DocumentTable:
    empty = np.empty(0, dtype=np.int64)
    tables = [*tables, DocumentTable(empty, empty, empty, empty, empty.astype(np.uint64))]
    return DocumentTable(
        np.concatenate([table.file for table in tables]),
        np.concatenate([table.start for table in tables]),
        np.concatenate([table.length for table in tables]),
        np.concatenate([table.num_bytes for table in tables]),
        np.concatenate([table.key for table in tables]),
    )
