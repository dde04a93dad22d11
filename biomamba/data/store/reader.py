"""Open token stores and read the documents of a split, from memory-mapped files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from biomamba.data.document import FACTS_KIND, SPLITS, DocumentFacts, document_key, read_facts
from biomamba.data.store.format import Manifest, read_index, verify_store
from biomamba.runtime.errors import ConfigError, DataError

# -------------------------------------------------------------------------------------------------
# What is learned of documents that are not learned whole, as prompts with answers.
# -------------------------------------------------------------------------------------------------

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Supervision:
    """What is learned of documents, or of pieces of them.

    Attributes:
        num_context: (documents,); so many first tokens are read, but are no targets.
        weights: (documents,) float32; weight of every target of a document in the loss.
    """

    num_context: Ints
    weights: NDArray[np.float32]

    @classmethod
    def of_nothing(cls) -> "Supervision":
        """Return what is learned of no documents."""
        return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))

    @classmethod
    def merge(cls, parts: "Sequence[Supervision | None]", order: Ints) -> "Supervision | None":
        """Put parts one after the other, in another order; None if all is learned of all."""
        known = [part for part in parts if part is not None]
        if not known:
            return None
        assert len(known) == len(parts), "some sources say what is learned, others do not"
        return cls(
            np.concatenate([part.num_context for part in known])[order],
            np.concatenate([part.weights for part in known])[order],
        )

    def of_pieces(self, documents: Ints, starts: Ints, lengths: Ints) -> "Supervision":
        """Return what is learned of pieces of documents."""
        num_context = np.clip(self.num_context[documents] - starts, 0, lengths)
        return Supervision(num_context, self.weights[documents])

    def token_weights(self, lengths: Ints) -> NDArray[np.float32]:
        """Return the weight of each token of documents that are one after another.

        It is 0 exactly at the tokens that are only read.

        Args:
            lengths: (documents,); tokens of each document.
        """
        begins = np.cumsum(lengths) - lengths
        within = np.arange(lengths.sum()) - np.repeat(begins, lengths)
        is_read = within < np.repeat(self.num_context, lengths)
        return np.where(is_read, np.float32(0), np.repeat(self.weights, lengths))


# -------------------------------------------------------------------------------------------------
# Open finished token stores and make sure that they belong together.
# -------------------------------------------------------------------------------------------------

VERIFY_MODES = ("full", "size")


@dataclass(frozen=True)
class OpenStore:
    """A finished store."""

    folder: Path
    manifest: Manifest

    @property
    def fingerprint(self) -> str:
        """Identify the documents of the store and their order, whatever code wrote them."""
        manifest = self.manifest
        return content_fingerprint(
            {
                "tokenizer": manifest.tokenizer,
                "dtype": manifest.dtype,
                "shards": manifest.shards,
                "files": {
                    name: record.sha256
                    for name, record in manifest.files.items()
                    # Records of how they were made, and what is told about the documents.
                    if not name.endswith((".json", f".{FACTS_KIND}"))
                },
            }
        )


def open_stores(folders: Sequence[str]) -> list[OpenStore]:
    """Open stores that are pooled into one source or used together.

    Raises:
        ConfigError: If no folder is given or one is given twice.
        DataError: If a store is missing or damaged, or the stores do not share tokenizer and split
            rule: ids would mean different tokens, or a document could be in two splits.
    """
    if not folders:
        raise ConfigError("a source names no token stores; give at least one folder")
    doubles = sorted({folder for folder in folders if folders.count(folder) > 1})
    if doubles:
        raise ConfigError(f"token stores named more than once: {', '.join(doubles)}")
    stores = [OpenStore(Path(folder), Manifest.read(Path(folder))) for folder in folders]
    check_compatible(stores)
    return stores


def check_compatible(stores: Sequence[OpenStore]) -> None:
    """Refuse stores of different tokenizers or split rules.

    Raises:
        DataError: Naming the first two stores that differ.
    """
    first = stores[0]
    for other in stores[1:]:
        for what in ("tokenizer", "split"):
            mine, its = getattr(first.manifest, what), getattr(other.manifest, what)
            if mine != its:
                raise DataError(
                    f"token stores {first.folder} and {other.folder} differ in {what} "
                    f"({mine} and {its}); prepare them as one set"
                )


def verify_stores(stores: Sequence[OpenStore], mode: str) -> None:
    """Compare every file with the manifests, by hash (`full`) or by size (`size`).

    Raises:
        DataError: Naming every file that is missing, cut or changed.
    """
    for store in stores:
        verify_store(store.folder, mode)


def content_fingerprint(content: Mapping[str, object]) -> str:
    """Hash a JSON-like description."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


# -------------------------------------------------------------------------------------------------
# The documents of one split over many shards and stores, read from memory-mapped files.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DocumentTable:
    """Where each document is; all arrays are (documents,).

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
        table: Where the documents are.
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


# -------------------------------------------------------------------------------------------------
# Documents that are in no store.
# -------------------------------------------------------------------------------------------------


class MemorySplit(TokenSplit):
    """Tokens of documents in main memory, read as those of a store are.

    Args:
        documents: Tokens of each document, its end included.
        eod_id: Id that starts every document, and ends one that is whole.
        ids: Name of each document.
        num_bytes: UTF-8 bytes of what is scored of each document.
        supervision: What is learned of the documents; None: every token, all alike.
    """

    def __init__(
        self,
        documents: Sequence[Sequence[int]],
        eod_id: int,
        *,
        ids: Sequence[str],
        num_bytes: Sequence[int],
        supervision: Supervision | None = None,
    ) -> None:
        lengths = np.array([len(tokens) for tokens in documents], dtype=np.int64)
        table = DocumentTable(
            file=np.zeros_like(lengths),
            start=np.cumsum(lengths) - lengths,
            length=lengths,
            num_bytes=np.array(num_bytes, dtype=np.int64),
            key=np.array([document_key(name) for name in ids], dtype=np.uint64),
        )
        super().__init__([], np.dtype(np.int32), eod_id, table)
        self.supervision = supervision
        tokens = chain.from_iterable(documents)
        self.content = np.fromiter(tokens, dtype=np.int32, count=int(lengths.sum()))

    @property
    def digest(self) -> str:
        """sha256 of all that reaches a batch."""
        learned = self.supervision
        arrays: list[NDArray[Any]] = [self.lengths, self.num_bytes, self.keys, self.content]
        arrays += [learned.num_context, learned.weights] if learned is not None else []
        return sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

    def parts(self, documents: Ints, starts: Ints, lengths: Ints) -> list[NDArray[Any]]:
        """Return parts of documents, from token `start` on."""
        begins = self.table.start[documents] + starts
        return [
            self.content[begin:end]
            for begin, end in zip(begins.tolist(), (begins + lengths).tolist(), strict=True)
        ]


# -------------------------------------------------------------------------------------------------
# Find what is known about documents of a split, by their keys.
# -------------------------------------------------------------------------------------------------


def find_facts(
    stores: Sequence[Path], split: str, keys: NDArray[np.uint64]
) -> dict[int, DocumentFacts]:
    """Return the facts of the documents with these keys, for those of which something is known.

    Stores of one source may hold a document twice; the first one that knows something tells it.

    Raises:
        DataError: If a store is missing or damaged.
    """
    found: dict[int, DocumentFacts] = {}
    for folder in stores:
        manifest = Manifest.read(folder)
        for shard in manifest.shards:
            stem = f"{shard}.{split}"
            if f"{stem}.{FACTS_KIND}" in manifest.files:
                _find(folder / stem, keys, found)
    return found


def _find(stem: Path, keys: NDArray[np.uint64], found: dict[int, DocumentFacts]) -> None:
    own = read_index(stem.with_name(f"{stem.name}.idx"))["key"]
    path = stem.with_name(f"{stem.name}.{FACTS_KIND}")
    facts = read_facts(path)
    if len(facts) != len(own):
        raise DataError(
            f"{path} describes {len(facts)} documents, the split has {len(own)}; copy the store "
            "again, or prepare it again with overwrite=true"
        )
    for number in np.flatnonzero(np.isin(own, keys)).tolist():
        each = facts[number]
        if each is not None:
            found.setdefault(int(own[number]), each)


# -------------------------------------------------------------------------------------------------
# Find one document in token stores.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredDocument:
    """Where a document is: its store, its split and its tokens with the EOD."""

    folder: str
    split: str
    tokens: int


def find_document(folders: Sequence[str], key: int) -> StoredDocument | None:
    """Return where the stores of a source hold the document of a key; None if they do not.

    Raises:
        DataError: If a store is missing or damaged.
    """
    for store in open_stores(folders):
        for split in SPLITS:
            documents = TokenSplit.open([store], split)
            (found,) = np.nonzero(documents.keys == np.uint64(key))
            if len(found):
                return StoredDocument(str(store.folder), split, int(documents.lengths[found[0]]))
    return None
