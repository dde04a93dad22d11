"""One reader's documents of one source: endless, shuffled in blocks, resumed from five integers."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.document import Document, document_key
from biomamba.data.permutation import FeistelPermutation
from biomamba.data.streaming.admission import Admission
from biomamba.data.streaming.source import ReaderPart, StreamedSource
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_number, check_whole

_DOCUMENTS_AT_ONCE = 16


@dataclass(frozen=True)
class Reading:
    """How the corpora are read.

    Attributes:
        num_readers: Virtual readers; the number of ranks divides it, and it divides the rows of a
            step. Each keeps a file of every source open, which takes about 20 MB (JSON lines) to
            65 MB (Parquet) where `datasets` reads it.
        block_documents: Documents of a source that a reader holds and shuffles at a time.
        max_bad_fraction: The run stops when more of the rows of a raw shard than this are damaged.
    """

    num_readers: int = 64
    block_documents: int = 256
    max_bad_fraction: float = 0.001

    def __post_init__(self) -> None:
        for name in ("num_readers", "block_documents"):
            check_whole(name, getattr(self, name))
        check_number("max_bad_fraction", self.max_bad_fraction, at_least=0, at_most=1)


@dataclass(frozen=True)
class ReaderSettings:
    """What all readers of a run share.

    Attributes:
        reading: How the corpora are read.
        admission: Which documents are trained on.
        tokenizer: Encodes the texts.
        seed: Selects the order.
        max_repetition: Passes over its part of a source that a reader may begin; None for no limit.
    """

    reading: Reading
    admission: Admission
    tokenizer: Tokenizer
    seed: int
    max_repetition: int | None = None


@dataclass(frozen=True)
class Place:
    """Where a block begins.

    Attributes:
        epoch: Pass over the reader's part of the source.
        shard: Place of the raw shard in the order of the pass.
        row: Rows of that shard that lie behind.
    """

    epoch: int = 0
    shard: int = 0
    row: int = 0


@dataclass(frozen=True)
class Piece:
    """A part of a document.

    Attributes:
        key: Document key.
        start: First token in the document.
        tokens: (tokens,).
        previous: The token before; EOD before the start of the document.
        num_bytes: UTF-8 bytes of the document, 0 if the piece continues one.
    """

    key: int
    start: int
    tokens: NDArray[Any]
    previous: int
    num_bytes: int


class SourceReader:
    """Cut the documents of one reader and one source into pieces, each token once per pass.

    Args:
        source: The source.
        reader: Number of the reader.
        settings: What all readers share.
        position: Where to go on, as `position` returned it; None for the beginning.
    """

    def __init__(
        self,
        source: StreamedSource,
        reader: int,
        settings: ReaderSettings,
        position: list[int] | None = None,
    ) -> None:
        epoch, shard, row, self._document, self._token = position or [0] * 5
        self._begin = Place(epoch, shard, row)
        self._end = self._begin
        self._source = source
        self._reader = reader
        self._settings = settings
        self._part: ReaderPart = source.part(reader, settings.reading.num_readers)
        self._candidates: Iterator[tuple[Place, Document]] | None = None
        self._block: list[Document] = []
        self._encoded: dict[int, NDArray[Any]] = {}

    @property
    def position(self) -> list[int]:
        """Epoch, shard and row where the block begins, documents and tokens of it behind."""
        return [*astuple(self._begin), self._document, self._token]

    def take(self, num_tokens: int) -> list[Piece]:
        """Return the next pieces; they hold exactly so many tokens.

        Raises:
            DataError: If the reader finds no document, or a source cannot be read.
            ConfigError: If another pass over the source would be one too many.
        """
        pieces: list[Piece] = []
        while num_tokens:
            piece = self._next_piece(num_tokens)
            num_tokens -= len(piece.tokens)
            pieces.append(piece)
        return pieces

    def _next_piece(self, max_tokens: int) -> Piece:
        if not self._block:
            self._load(self._begin)
        if self._document == len(self._block):
            self._document = 0
            self._load(self._end)
        document, tokens = self._block[self._document], self._tokens(self._document)
        start = self._token
        piece = Piece(
            key=document_key(document.id),
            start=start,
            tokens=tokens[start : start + max_tokens],
            previous=int(tokens[start - 1]) if start else self._settings.tokenizer.eod_id,
            num_bytes=0 if start else len(document.text.encode("utf-8")),
        )
        self._token += len(piece.tokens)
        if self._token == len(tokens):
            self._document, self._token = self._document + 1, 0
        return piece

    def _load(self, begin: Place) -> None:
        """Read and shuffle the block that begins at a place, or the first of the next epoch."""
        block = self._fill(begin)
        if not block and begin != Place(begin.epoch):
            begin = Place(begin.epoch + 1)
            self._check_repetition(begin.epoch)
            self._candidates = None
            block = self._fill(begin)
        if not block:
            raise DataError(
                f"reader {self._reader} finds no training document in its part of source "
                f"{self._source.name!r}; lower num_readers or add documents"
            )
        order = self._order("block", len(block), *astuple(begin))
        self._block = [block[number] for number in order]
        self._begin = begin
        self._encoded = {}

    def _fill(self, begin: Place) -> list[Document]:
        """Read the documents of the block that begins at a place; none at the end of an epoch."""
        if self._candidates is None:
            self._candidates, self._end = self._read(begin), begin
        size, block = self._settings.reading.block_documents, list[Document]()
        while len(block) < size:
            num_wanted = size - len(block)
            found = list(islice(self._candidates, num_wanted))
            block += self._settings.admission.without_benchmarks(
                [candidate for _, candidate in found]
            )
            if found:
                self._end = found[-1][0]
            if len(found) < num_wanted:
                break
        return block

    def _read(self, begin: Place) -> Iterator[tuple[Place, Document]]:
        """Iterate over the training documents of an epoch, with the places behind them."""
        order = self._order("shards", len(self._part.shards), begin.epoch)
        max_bad_fraction = self._settings.reading.max_bad_fraction
        for number in range(begin.shard, len(order)):
            first_row = begin.row if number == begin.shard else 0
            for row, document in self._part.documents(order[number], first_row, max_bad_fraction):
                if self._settings.admission.is_of("train", document):
                    yield Place(begin.epoch, number, row + 1), document

    def _order(self, what: str, size: int, *place: int) -> list[int]:
        key = (what, self._settings.seed, self._source.name, self._reader, *place)
        return [int(number) for number in FeistelPermutation(size, *key)(np.arange(size))]

    def _tokens(self, number: int) -> NDArray[Any]:
        if number not in self._encoded:
            tokenizer = self._settings.tokenizer
            texts = [d.text for d in self._block[number : number + _DOCUMENTS_AT_ONCE]]
            self._encoded = {
                number + i: np.array([*ids, tokenizer.eod_id], dtype=np.int32)
                for i, ids in enumerate(tokenizer.encode_batch(texts))
            }
        return self._encoded[number]

    def _check_repetition(self, epoch: int) -> None:
        limit = self._settings.max_repetition
        if limit is not None and epoch >= limit:
            raise ConfigError(
                f"max_repetition is {limit}, but reader {self._reader} has passed over its part of "
                f"source {self._source.name!r} that often; lower max_tokens or the weight of the "
                "source, add documents, or raise max_repetition"
            )
