"""Stage raw shards: read, tokenize and mark each once, and write the result as arrays."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.cleaning.benchmark_filter import HIT_DTYPE
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.corpora.corpus import Corpus
from biomamba.data.document import (
    FACTS_KIND,
    Document,
    DocumentFacts,
    Reject,
    document_key,
    facts_bytes,
    read_facts,
)
from biomamba.data.rows import RawShard
from biomamba.data.store.format import (
    FileRecord,
    HashedFile,
    file_problems,
    settings_difference,
    token_dtype,
)
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import read_sealed, sync_folder, write_sealed
from biomamba.runtime.numbers import check_number

# -------------------------------------------------------------------------------------------------
# The staging of a token store: what became of a raw shard before the whole set is decided.
#
#     staging/NNNNN.bin    token ids of every document in raw order, each with its EOD id
#     staging/NNNNN.idx    one STAGED_DTYPE record per document
#     staging/NNNNN.bands  uint64, one band of all documents after the other
#     staging/NNNNN.hits   one HIT_DTYPE record per benchmark item found in a document
#     staging/NNNNN.facts  facts of the documents; only if something is known of one of them
#     staging/NNNNN.json   StagedRecord, written last: the commit point
#
# The content is a pure function of the raw shard and the settings of its record. Tokens and facts
# go when the store is finished; the rest stays, so that a corpus added later is compared with these
# documents too.
# -------------------------------------------------------------------------------------------------

STAGING_NAME = "staging"
STAGE_VERSION = 1
# end: offset after the document in tokens; num_bytes: UTF-8 bytes of its text; key and group:
# hashes of the id and of the group; text: hash of the normalized text.
STAGED_DTYPE = np.dtype(
    [("end", "<u8"), ("num_bytes", "<u4"), ("key", "<u8"), ("group", "<u8"), ("text", "<u8")]
)
KINDS = ("bin", "idx", "bands", "hits")
_PASSING_KINDS = ("bin", FACTS_KIND)
BAND_DTYPE = np.dtype("<u8")


@dataclass(frozen=True)
class StagedRecord:
    """The commit record of a staged shard.

    Attributes:
        raw_name: Name of the raw shard.
        raw_fingerprint: What identified its content.
        settings: Everything else that decided the content.
        num_documents: Documents, before any is left out.
        num_bands: Bands per document.
        num_rows: Documents and rejects together.
        rejects: Rows that did not become documents, by reason.
        num_damaged: How many of the rejects were technical faults.
        files: The other files by name.
    """

    raw_name: str
    raw_fingerprint: str
    settings: dict[str, Any]
    num_documents: int
    num_bands: int
    num_rows: int
    rejects: dict[str, int]
    num_damaged: int
    files: dict[str, FileRecord]

    @classmethod
    def read(cls, path: Path) -> "StagedRecord":
        """Read a record, refusing a damaged one.

        Raises:
            DataError: If it is not what was written, or of another version.
        """
        content = read_sealed(path)
        try:
            files = {name: FileRecord(**record) for name, record in content["files"].items()}
            return cls(**{**content, "files": files})
        except (TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path} is no staged record of this version: {error}") from error


@dataclass(frozen=True)
class StagedShard:
    """The files of one staged shard.

    Attributes:
        folder: The staging folder of the store.
        number: Place of the raw shard in its corpus.
    """

    folder: Path
    number: int

    @property
    def name(self) -> str:
        """Name of the token shard, NNNNN."""
        return f"{self.number:05d}"

    @property
    def record_path(self) -> Path:
        """The commit point."""
        return self.folder / f"{self.name}.json"

    def path(self, kind: str) -> Path:
        """Return the file of one of KINDS, or of the facts."""
        return self.folder / f"{self.name}.{kind}"

    def paths(self) -> list[Path]:
        """Return all files of this shard, the record among them."""
        return [self.record_path, *(self.path(kind) for kind in (*KINDS, FACTS_KIND))]

    def write_record(self, record: StagedRecord) -> None:
        """Commit the shard."""
        write_sealed(self.record_path, asdict(record))

    def files(self, record: StagedRecord, *, needs_tokens: bool) -> dict[str, FileRecord]:
        """Return the records of the files that must be there; tokens and facts may be gone."""
        passing = {self.path(kind).name for kind in _PASSING_KINDS}
        return {
            name: file
            for name, file in record.files.items()
            if needs_tokens or name not in passing or (self.folder / name).is_file()
        }

    def problems(self, record: StagedRecord, *, needs_tokens: bool) -> Iterable[str]:
        """Iterate over the deviations of the files from the record."""
        files = self.files(record, needs_tokens=needs_tokens)
        return file_problems(self.folder, files, is_full=True)

    def index(self) -> NDArray[Any]:
        """Read the index, STAGED_DTYPE."""
        return np.fromfile(self.path("idx"), dtype=STAGED_DTYPE)

    def hits(self) -> NDArray[Any]:
        """Read the benchmark hits, HIT_DTYPE."""
        return np.fromfile(self.path("hits"), dtype=HIT_DTYPE)

    def facts(self) -> list[DocumentFacts | None] | None:
        """Read the facts of the documents; None if nothing is known of any."""
        path = self.path(FACTS_KIND)
        return read_facts(path) if path.is_file() else None

    def band(self, band: int, num_documents: int) -> NDArray[Any]:
        """Read one band of all documents."""
        offset = band * num_documents * BAND_DTYPE.itemsize
        path = self.path("bands")
        return np.fromfile(path, dtype=BAND_DTYPE, count=num_documents, offset=offset)

    def remove_tokens(self) -> None:
        """Remove tokens and facts: what only the finishing of the store needs."""
        for kind in _PASSING_KINDS:
            self.path(kind).unlink(missing_ok=True)


# -------------------------------------------------------------------------------------------------
# Write one staged shard: batches of documents become arrays, never one array per document.
# -------------------------------------------------------------------------------------------------

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
    """Tokenize and mark the documents of one raw shard.

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
        # Kept until the end: a band of all documents is together in its file.
        self._bands: list[NDArray[Any]] = []
        # Too: the names of their descriptors are before them.
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


# -------------------------------------------------------------------------------------------------
# Stage raw shards: read, tokenize and mark each once, in several processes if asked.
# -------------------------------------------------------------------------------------------------

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageRules:
    """What decides the staging of one corpus.

    Attributes:
        folder: The staging folder of its store.
        corpus: Where the documents come from.
        tokenizer: Encodes the texts.
        cleaning: Marks the documents.
        max_bad_fraction: A shard is refused when more of its rows than this are damaged.
        is_rebuild: Replace what was staged under other settings instead of refusing.
    """

    folder: Path
    corpus: Corpus
    tokenizer: Tokenizer
    cleaning: Cleaning
    max_bad_fraction: float
    is_rebuild: bool = False

    def __post_init__(self) -> None:
        check_number("max_bad_fraction", self.max_bad_fraction, at_least=0, at_most=1)

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the content, apart from the raw bytes, as in JSON."""
        settings = {
            "stage_version": STAGE_VERSION,
            "tokenizer": self.tokenizer.fingerprint,
            "corpus": self.corpus.settings(),
            "domain": self.corpus.domain,
            "cleaning": self.cleaning.settings(),
        }
        content: dict[str, Any] = json.loads(json.dumps(settings))
        return content


@dataclass(frozen=True)
class StageTask:
    """One raw shard to be staged.

    Attributes:
        store: Name of the corpus.
        number: Place of the shard in its corpus.
        shard: The raw shard.
        needs_tokens: False where the token shard is already committed: marks are enough.
    """

    store: str
    number: int
    shard: RawShard
    needs_tokens: bool

    def __str__(self) -> str:
        return f"raw shard {self.shard.name} of {self.store}"


class Stager:
    """Stage one raw shard after the other, or find it staged.

    Args:
        rules: By name of the corpus.
    """

    def __init__(self, rules: Mapping[str, StageRules]) -> None:
        self._rules = dict(rules)
        self._settings: dict[str, dict[str, Any]] = {}

    def __call__(self, task: StageTask) -> Iterator[int]:
        """Bring one shard up to date; yield the numbers of rows read.

        Raises:
            DataError: If the shard was staged otherwise, its raw data cannot be read, too much of
                it is damaged, or the folder cannot be written.
        """
        rules = self._rules[task.store]
        if task.store not in self._settings:
            self._settings[task.store] = rules.settings()
        settings = self._settings[task.store]
        fingerprint = task.shard.fingerprint()
        staged = StagedShard(rules.folder, task.number)
        if not _is_current(staged, task, (settings, fingerprint), is_rebuild=rules.is_rebuild):
            yield from _stage(staged, task, rules, (settings, fingerprint))


def refuse_other_staging(
    rules: StageRules, shards: Sequence[RawShard], settings: Mapping[str, Any]
) -> None:
    """Compare what is staged with what is asked for, without reading raw data.

    Raises:
        DataError: If a shard was staged under other settings, from another raw shard, or from one
            that is no longer there.
    """
    for path in sorted(rules.folder.glob("[0-9]*.json")):
        try:
            record = StagedRecord.read(path)
        except DataError:
            continue  # staged again when its turn comes
        refuse_difference(path, record.settings, settings)
        number = int(path.stem)
        asked = shards[number].name if number < len(shards) else "no such raw shard"
        if record.raw_name != asked:
            raise other_raw(path, record.raw_name, asked)


def refuse_difference(path: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse records of other settings.

    Raises:
        DataError: Naming every difference.
    """
    difference = settings_difference(stored, asked)
    if difference:
        raise DataError(
            f"{path} was written with other settings ({difference}); "
            "choose another name, or set overwrite=true to rebuild the store"
        )


def other_raw(path: Path, found: object, asked: object) -> DataError:
    """Make the error for a record of another raw shard."""
    return DataError(
        f"{path} was made from {found}, now asked for: {asked}; "
        "set overwrite=true to rebuild the store"
    )


def _is_current(
    staged: StagedShard,
    task: StageTask,
    asked: tuple[dict[str, Any], str],
    *,
    is_rebuild: bool,
) -> bool:
    settings, fingerprint = asked
    path = staged.record_path
    if not path.is_file():
        return False
    try:
        record = StagedRecord.read(path)
    except DataError as error:
        _LOG.warning("%s; staging it again", error)
        return False
    identity = (record.raw_name, record.raw_fingerprint)
    is_same = record.settings == settings and identity == (task.shard.name, fingerprint)
    if not is_same and not is_rebuild:
        refuse_difference(path, record.settings, settings)
        raise other_raw(path, identity, (task.shard.name, fingerprint))
    if not is_same or (task.needs_tokens and not staged.path("bin").is_file()):
        return False
    problems = list(staged.problems(record, needs_tokens=task.needs_tokens))
    if problems:
        _LOG.warning("%s: %s; staging it again", staged.folder, "; ".join(problems))
    return not problems


def _stage(
    staged: StagedShard, task: StageTask, rules: StageRules, asked: tuple[dict[str, Any], str]
) -> Iterator[int]:
    settings, fingerprint = asked
    try:
        staged.folder.mkdir(parents=True, exist_ok=True)
        with StageWriter(staged, rules.tokenizer, rules.cleaning) as writer:
            yield from writer.write(rules.corpus.documents(task.shard))
            _check_damage(writer, task.shard.name, rules.max_bad_fraction)
            _check_unchanged(task, fingerprint)
            files = writer.commit()
    except OSError as error:
        raise DataError(
            f"cannot stage {task} in {staged.folder} ({error.strerror}); the committed shards "
            "are safe, make room or fix the rights, and run again"
        ) from error
    counts = writer.counts
    if not counts.num_rows:
        _LOG.warning("%s has no rows", task)
    record = StagedRecord(
        raw_name=task.shard.name,
        raw_fingerprint=fingerprint,
        settings=settings,
        num_documents=writer.num_documents,
        num_bands=writer.num_bands,
        num_rows=counts.num_rows,
        rejects=dict(sorted(counts.rejects.items())),
        num_damaged=counts.num_damaged,
        files=files,
    )
    staged.write_record(record)


def _check_unchanged(task: StageTask, fingerprint: str) -> None:
    if task.shard.fingerprint() != fingerprint:
        raise DataError(
            f"{task} has changed while it was read; wait until nobody writes to it and run again"
        )


def _check_damage(writer: StageWriter, name: str, max_bad_fraction: float) -> None:
    counts = writer.counts
    if counts.num_damaged > max_bad_fraction * counts.num_rows:
        raise DataError(
            f"{counts.num_damaged} of {counts.num_rows} rows of raw shard {name} are damaged, "
            f"more than max_bad_fraction={max_bad_fraction} "
            f"({'; '.join(counts.examples)}); fix the file or raise the limit"
        )
