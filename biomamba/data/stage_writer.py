"""Write one staged shard: batches of documents become arrays, never one array per document."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.document import Document, Reject, document_key
from biomamba.data.document_facts import FACTS_KIND, DocumentFacts, facts_bytes
from biomamba.data.hashed_file import HashedFile
from biomamba.data.manifest import FileRecord, token_dtype
from biomamba.data.staged_shard import BAND_DTYPE, KINDS, STAGED_DTYPE, StagedShard
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.atomic import sync_folder

# A batch has at most so many rows, and so many characters or a single document.
_ROWS_PER_BATCH = 512
_CHARACTERS_PER_BATCH = 1 << 21
_MAX_EXAMPLES = 5


@dataclass
class RowCounts:
    """What came out of the rows of one raw shard.

    Attributes:
        rejects: By reason.
        num_rows: Documents and rejects together.
        num_damaged: Rejects that were technical faults.
        examples: The first damaged rows, as `reason at place`.
    """

    rejects: Counter[str] = field(default_factory=Counter)
    num_rows: int = 0
    num_damaged: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, rows: Sequence[Document | Reject]) -> list[Document]:
        """Count rows and return the documents among them."""
        self.num_rows += len(rows)
        documents = []
        for row in rows:
            if isinstance(row, Document):
                documents.append(row)
            else:
                self._reject(row)
        return documents

    def _reject(self, reject: Reject) -> None:
        self.rejects[reject.reason] += 1
        if reject.is_damaged:
            self.num_damaged += 1
            if len(self.examples) < _MAX_EXAMPLES:
                self.examples.append(f"{reject.reason} at {reject.id}")


class StageWriter:
    """Tokenise and mark the documents of one raw shard.

    Args:
        shard: Where the files go; its folder exists.
        tokenizer: Encodes the texts.
        cleaning: Marks the documents.
    """

    def __init__(self, shard: StagedShard, tokenizer: Tokenizer, cleaning: Cleaning) -> None:
        self._shard = shard
        self._tokenizer = tokenizer
        self._cleaning = cleaning
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._files: dict[str, HashedFile] = {}
        # Kept until the end: a band of all documents lies together in its file.
        self._bands: list[NDArray[Any]] = []
        # Too: the names of their descriptors stand before them.
        self._facts: list[DocumentFacts | None] = []
        self._num_tokens = 0
        self.num_documents = 0
        self.counts = RowCounts()

    def __enter__(self) -> "StageWriter":
        for kind in KINDS:
            self._files[kind] = HashedFile(self._shard.path(kind))
        return self

    def __exit__(self, *_: object) -> None:
        """Drop what was not committed."""
        for file in self._files.values():
            file.discard()

    @property
    def num_bands(self) -> int:
        """Bands per document; 0 for a shard without documents."""
        return self._bands[0].shape[1] if self._bands else 0

    def write(self, rows: Iterable[Document | Reject]) -> Iterator[int]:
        """Write the rows; yield the number of rows done after every batch."""
        for batch in _batches(self._cleaning.admit(rows)):
            documents = self.counts.add(batch)
            if documents:
                self._write_batch(documents)
            yield len(batch)

    def commit(self) -> dict[str, FileRecord]:
        """Put the files in place and return their records."""
        if self._bands:
            for band in range(self.num_bands):
                column = np.concatenate([bands[:, band] for bands in self._bands])
                self._files["bands"].write(column.astype(BAND_DTYPE, copy=False))
        self._write_facts()
        records = {self._shard.path(kind).name: file.commit() for kind, file in self._files.items()}
        sync_folder(self._shard.folder)
        return records

    def _write_facts(self) -> None:
        content = facts_bytes(self._facts)
        path = self._shard.path(FACTS_KIND)
        if content is None:
            path.unlink(missing_ok=True)  # of an earlier staging under other settings
            return
        self._files[FACTS_KIND] = HashedFile(path)
        self._files[FACTS_KIND].write(np.frombuffer(content, dtype=np.uint8))

    def _write_batch(self, documents: list[Document]) -> None:
        texts = [document.text for document in documents]
        marks = self._cleaning.marks(documents)
        lengths = self._write_tokens(texts)
        index = np.empty(len(documents), dtype=STAGED_DTYPE)
        index["end"] = self._num_tokens + np.cumsum(lengths)
        index["num_bytes"] = [
            len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
            for text in texts
        ]
        index["key"] = [document_key(document.id) for document in documents]
        index["group"] = index["key"]
        for number, document in enumerate(documents):
            if document.group is not None:
                index["group"][number] = document_key(document.group)
        index["text"] = marks.text
        self._files["idx"].write(index)
        hits = marks.hits.copy()
        hits["document"] += np.uint32(self.num_documents)
        self._files["hits"].write(hits)
        self._bands.append(marks.bands)
        self._facts += [document.facts for document in documents]
        self._num_tokens += int(lengths.sum())
        self.num_documents += len(documents)

    def _write_tokens(self, texts: list[str]) -> NDArray[np.int64]:
        encoded = self._tokenizer.encode_batch(texts)
        for ids in encoded:
            ids.append(self._tokenizer.eod_id)
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        tokens = np.fromiter(
            chain.from_iterable(encoded), dtype=self._dtype, count=int(lengths.sum())
        )
        self._files["bin"].write(tokens)
        return lengths


def _batches(rows: Iterable[Document | Reject]) -> Iterator[list[Document | Reject]]:
    batch: list[Document | Reject] = []
    num_characters = 0
    for row in rows:
        length = len(row.text) if isinstance(row, Document) else 0
        is_full = num_characters + length > _CHARACTERS_PER_BATCH or len(batch) == _ROWS_PER_BATCH
        if batch and is_full:
            yield batch
            batch, num_characters = [], 0
        batch.append(row)
        num_characters += length
    if batch:
        yield batch
