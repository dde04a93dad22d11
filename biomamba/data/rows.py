"""Rows of local text, JSON, CSV and Parquet files, one raw shard per file."""

import codecs
import csv
import gzip
import json
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow
import pyarrow.parquet

from biomamba.data.document import Reject
from biomamba.data.raw_shards import Checksums, expand_files
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import sha256_of

# -------------------------------------------------------------------------------------------------
# The one reader of text that users bring: UTF-8, a byte order mark allowed and removed.
#
# Another encoding would not fail: UTF-16 read by chance gives other characters, and the model
# learns them. So a file that is not UTF-8 is refused by the name of what it looks like; in a table
# a single row that cannot be decoded is a counted reject (biomamba.data.rows). Half of a surrogate
# pair, as `"\ud83d"` alone in JSON, is no character and follows the same rule, and so does a JSON
# object with the same key twice, of which a parser silently keeps the last, and text with a zero
# character. A file with zero bytes at its start is refused.
# -------------------------------------------------------------------------------------------------

_BOM = codecs.BOM_UTF8
# Those of UTF-32 first: the little-endian one starts with that of UTF-16.
_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
HEAD_BYTES = 4096  # what must be known of a file to see its encoding
NOT_UTF8 = "row is not UTF-8"
NOT_UNICODE = "row holds half of a surrogate pair, which is no character"
NOT_JSON = "row is not JSON"
HAS_ZERO = "row holds a zero character, which is no text"
# Of half a surrogate pair and of a zero.
_ESCAPES = ("\\ud", "\\uD", "\\u0000")
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,39}")


class TextFault(ValueError):  # noqa: N818 - a reason to reject, not an error of the program
    """Why a text cannot be used, in words that quote nothing of it."""


def without_mark(head: bytes, name: object) -> bytes:
    """Return the first bytes of a file without the mark of UTF-8.

    Args:
        head: Up to HEAD_BYTES of it.
        name: Of the file, for the message.

    Raises:
        DataError: They are of another encoding, or of no text.
    """
    for mark, encoding in _OTHER_MARKS:
        if head.startswith(mark):
            raise _wrong_encoding(name, encoding)
    if b"\0" in head:
        # Latin letters of UTF-16 have a zero byte each; a binary file has them anywhere.
        even, odd = head[::2].count(0), head[1::2].count(0)
        is_utf16 = max(even, odd) > len(head) // 8 and min(even, odd) < max(even, odd) // 8
        raise _wrong_encoding(name, "UTF-16" if is_utf16 else "binary data")
    return head.removeprefix(_BOM)


def decode_row(raw: bytes) -> str:
    """Return a row as text.

    Raises:
        TextFault: It is not UTF-8, or holds a zero byte.
    """
    if b"\0" in raw:
        raise TextFault(HAS_ZERO)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextFault(NOT_UTF8) from error


def parse_row(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        TextFault: It is not JSON, an object has a key twice, or a text is not valid Unicode or
            holds a zero character.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except TextFault:
        raise
    except (ValueError, RecursionError) as error:
        raise TextFault(NOT_JSON) from error
    # An escape is the only way for half a pair or a zero to get into text that was decoded.
    if "\\u" in text and any(escape in text for escape in _ESCAPES):
        _check_texts(value)
    return value


def check_unicode(text: str, what: str) -> str:
    """Return a text that holds whole characters only.

    Raises:
        DataError: It holds half of a surrogate pair, as an argument of the command line does that
            is not UTF-8; the message names `what` and quotes nothing.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{what}: holds what is not UTF-8 at character {error.start + 1}; give it as UTF-8 "
            "(locale, or iconv -f latin1 -t utf-8)"
        ) from None
    return text


def decode_text(raw: bytes, name: object) -> str:
    """Return a whole file or stream as text.

    Raises:
        DataError: It is not UTF-8.
    """
    raw = without_mark(raw[:HEAD_BYTES], name) + raw[HEAD_BYTES:]
    if b"\0" in raw:
        raise _wrong_encoding(name, "binary data")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _wrong_encoding(name, f"not UTF-8 at byte {error.start + 1}, as Latin-1 is") from None


def read_text_file(path: Path) -> str:
    """Return the text of a file.

    Raises:
        DataError: It cannot be read or is not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return decode_text(raw, path)


def read_json_file(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        DataError: It cannot be read, is not UTF-8 or not JSON, an object has a key twice, or a text
            holds half of a surrogate pair.
    """
    text = read_text_file(path)
    try:
        return parse_row(text)
    except TextFault as error:
        reason = str(error).replace("row", "the file", 1)
        raise DataError(f"{path}: {reason}; fetch the file again") from error


def _wrong_encoding(name: object, found: str) -> DataError:
    remedy = (
        f"iconv -f {found} -t UTF-8" if found.startswith("UTF") else "iconv -f <encoding> -t UTF-8"
    )
    return DataError(f"{name}: must be UTF-8 text, found {found}; convert it ({remedy})")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                # In a damaged file a key may be text of a patient.
                name = f" {key!r}" if _NAME.fullmatch(key) else ""
                raise TextFault(f"row has a key twice{name and ':'}{name}")
            seen.add(key)
    return found


def _check_texts(value: Any) -> None:
    """Raise TextFault if any text in a value holds half of a surrogate pair or a zero."""
    pending = [value]
    while pending:
        found = pending.pop()
        if isinstance(found, dict):
            pending += [*found.keys(), *found.values()]
        elif isinstance(found, list):
            pending += found
        elif isinstance(found, str):
            if "\0" in found:
                raise TextFault(HAS_ZERO)
            try:
                found.encode("utf-8")
            except UnicodeEncodeError as error:
                raise TextFault(NOT_UNICODE) from error


# -------------------------------------------------------------------------------------------------
# Where raw rows come from: files on disk, one raw shard per file.
#
# A raw shard is the unit of work of the prepare stage: one raw shard becomes one token shard. A row
# that cannot be decoded is handed on as a Reject and counted; a file that ends early or is not what
# its name says stops the stage, because what it lost cannot be counted.
# -------------------------------------------------------------------------------------------------

Row = dict[str, Any]
_JSON_LINES = (".jsonl", ".jsonl.gz", ".json.gz")
# The last one is a name of a column in Parquet that is not UTF-8.
_FAULTS = (OSError, EOFError, zlib.error, csv.Error, pyarrow.ArrowException, UnicodeDecodeError)
# Text that is not UTF-8, and dates that Python cannot hold.
_BAD_CELLS = (ValueError, OverflowError)
_MAX_ROW_BYTES = 1 << 28
# Rows of Parquet that are decoded at once: so many, or as many as have about so many bytes.
_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 1 << 24
_SUFFIXES = (*_JSON_LINES, ".parquet", ".txt", ".csv", ".csv.gz")
Columns = frozenset[str] | None


class RawShard(Protocol):
    """One unit of raw input."""

    @property
    def name(self) -> str:
        """Short name, unique within its corpus."""

    def rows(self) -> Iterator[Row | Reject]:
        """Iterate over the rows in a fixed order."""

    def fingerprint(self) -> str:
        """Identify the content of this shard."""


class RowSource(Protocol):
    """A list of raw shards in a fixed order."""

    def shards(self) -> Sequence[RawShard]:
        """Return the raw shards."""

    def settings(self) -> dict[str, Any]:
        """Return what identifies the source beyond the fingerprints of its shards."""


@dataclass(frozen=True)
class LocalRows:
    """Rows of local files, in the order given.

    Formats by file name: `.jsonl`, `.jsonl.gz` and `.json.gz` hold one JSON object per line;
    `.parquet` one row per record; `.csv` and `.csv.gz` have a header; `.txt` gives one row
    `{"text": line}` per line.

    A changed bit shows in compressed files and in Parquet with page checksums. In `.jsonl`, `.csv`,
    `.txt` and other Parquet it may pass as another text; `checksums` is for those. Text is UTF-8
    (see above); columns of the same name are refused.

    Attributes:
        files: Paths; a file name with `*` stands for all matching files in sorted order.
        whole_text_files: A `.txt` file is one row, not a row per line.
        checksums: Path of a SHA256SUMS file that lists all the files; each is compared with it
            before it is read.
    """

    files: list[str]
    whole_text_files: bool = False
    checksums: str | None = None

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("files is empty; name at least one raw file")

    def shards(self) -> Sequence[RawShard]:
        """Return one shard per file.

        Raises:
            DataError: If a file is missing, of an unknown kind or named twice.
        """
        paths = [path for entry in self.files for path in expand_files(entry, _SUFFIXES)]
        names = [path.name for path in paths]
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            raise DataError(f"raw files share a name: {', '.join(doubles)}; rename one of each")
        expected = None if self.checksums is None else Checksums.read(Path(self.checksums))
        return [LocalShard(path, self.whole_text_files, expected) for path in paths]

    def settings(self) -> dict[str, Any]:
        """Return how text is cut; names and hashes of the shards say the rest."""
        return {"whole_text_files": True} if self.whole_text_files else {}


@dataclass(frozen=True)
class LocalShard:
    """One local file of rows.

    Attributes:
        path: The file.
        whole_text: A `.txt` file is one row.
        expected: Hashes that it is compared with.
        columns: What is read of each row; None: all.
    """

    path: Path
    whole_text: bool = False
    expected: Checksums | None = None
    columns: Columns = None

    @property
    def name(self) -> str:
        """The file name."""
        return self.path.name

    def fingerprint(self) -> str:
        """Hash the bytes of the file.

        Raises:
            DataError: If the file cannot be read or is not the one that the checksums list.
        """
        try:
            digest = sha256_of(self.path)
        except OSError as error:
            raise DataError(
                f"cannot read {self.path} ({error.strerror}); fix the rights or fetch it again"
            ) from error
        if self.expected is not None:
            self.expected.check(self.path, digest)
        return f"sha256:{digest}"

    def rows(self) -> Iterator[Row | Reject]:
        """Iterate over the rows of the file.

        Raises:
            DataError: If the file is cut short, damaged or not of the kind its name says.
        """
        try:
            yield from self._rows()
        except _FAULTS as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(
                f"cannot read {self.path} to its end ({reason}); fetch the file again"
            ) from error

    def _rows(self) -> Iterator[Row | Reject]:
        if self.name.endswith(".parquet"):
            return _parquet_rows(self.path, self.columns)
        if self.name.endswith((".csv", ".csv.gz")):
            return _csv_rows(self.path, self.columns)
        if self.name.endswith(".txt"):
            return _text_rows(self.path, is_whole=self.whole_text)
        return _json_rows(self.path, self.columns)


def with_columns(shards: Sequence[RawShard], columns: Iterable[str]) -> list[RawShard]:
    """Return shards that read these columns only; those that choose by themselves stay."""
    wanted = frozenset(columns)
    return [
        replace(shard, columns=wanted) if isinstance(shard, LocalShard) else shard
        for shard in shards
    ]


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def _check_encoding(path: Path) -> None:
    with _open(path) as file:
        without_mark(file.read(HEAD_BYTES), path)


def _lines(path: Path, *, is_whole: bool = False) -> Iterator[tuple[str, bytes]]:
    """Yield place and bytes of each line of a text file, without the mark of UTF-8.

    Of a line with more than _MAX_ROW_BYTES one byte more is yielded; the rest is passed over.
    """
    _check_encoding(path)
    limit = _MAX_ROW_BYTES + 1
    with _open(path) as file:
        if file.read(len(BOM_UTF8)) != BOM_UTF8:
            file.seek(0)
        if is_whole:
            yield f"{path.name}:1", file.read(limit)
            return
        number = 0
        while line := file.readline(limit):
            number += 1
            yield f"{path.name}:{number}", line
            while len(line) == limit and not line.endswith(b"\n"):
                line = file.readline(limit)


def _decoded(line: bytes) -> str:
    if len(line) > _MAX_ROW_BYTES:
        raise TextFault(f"row has more than {_MAX_ROW_BYTES} bytes")
    return decode_row(line)


def _json_rows(path: Path, columns: Columns) -> Iterator[Row | Reject]:
    for where, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = parse_row(_decoded(line))
        except TextFault as fault:
            yield Reject(str(fault), where, is_damaged=True)
            continue
        if isinstance(row, dict):
            yield _selected(row, columns)
        else:
            yield Reject("row is not an object", where, is_damaged=True)


def _text_rows(path: Path, *, is_whole: bool) -> Iterator[Row | Reject]:
    for where, line in _lines(path, is_whole=is_whole):
        try:
            yield {"text": _decoded(line)}
        except TextFault as fault:
            yield Reject(str(fault), where, is_damaged=True)


def _csv_rows(path: Path, columns: Columns) -> Iterator[Row | Reject]:
    csv.field_size_limit(_MAX_ROW_BYTES)
    _check_encoding(path)
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        # A surrogate marks an undecodable byte; the corpus counts such a text as damaged.
        reader = csv.DictReader(file, strict=True)
        _check_names(path, reader.fieldnames or ())
        for number, row in enumerate(reader, start=2):
            if None in row or None in row.values():
                where = f"{path.name}:{number}"
                yield Reject("row has the wrong number of fields", where, is_damaged=True)
            else:
                yield _selected(row, columns)


def _selected(row: Row, columns: Columns) -> Row:
    if columns is None:
        return row
    return {name: value for name, value in row.items() if name in columns}


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Raise DataError if two columns share a name: which of them is meant cannot be known."""
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise DataError(
            f"{path} has columns of the same name: {', '.join(doubles)}; rename all but one"
        )


def _parquet_rows(path: Path, columns: Columns) -> Iterator[Row | Reject]:
    # Page checksums catch flipped bits that still decompress, where the writer stored them.
    # The footer has no checksum, so its counts are compared with what was read.
    num_rows = 0
    with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
        names = file.schema_arrow.names
        _check_names(path, names)
        # Other columns are not decoded: an embedding takes longer than all texts, and a date that
        # Python cannot hold would end the run.
        wanted = None if columns is None else [name for name in names if name in columns]
        footer = file.metadata
        for group in range(footer.num_row_groups):
            size = _rows_at_once(footer.row_group(group))
            for batch in file.iter_batches(size, [group], columns=wanted):
                yield from _batch_rows(batch, path, num_rows)
                num_rows += len(batch)
        groups = sum(footer.row_group(group).num_rows for group in range(footer.num_row_groups))
        if not num_rows == groups == footer.num_rows:
            counts = f"{num_rows} rows read, {groups} and {footer.num_rows} in the footer"
            raise EOFError(counts)


def _rows_at_once(group: Any) -> int:
    """Return how many rows of a row group are decoded at once: fewer where they are large."""
    bytes_per_row = max(group.total_byte_size, 1) / max(group.num_rows, 1)
    return int(min(max(_BYTES_AT_ONCE / bytes_per_row, 1), _ROWS_AT_ONCE))


def _batch_rows(batch: Any, path: Path, num_before: int) -> list[Row | Reject]:
    """Return the rows of a batch; a row with a value that Python cannot hold is damaged."""
    try:
        rows: list[Row | Reject] = batch.to_pylist()
    except _BAD_CELLS:
        where = f"{path.name} row"
        rows = [
            _row(batch, place, f"{where} {num_before + place + 1}") for place in range(len(batch))
        ]
    return rows


def _row(batch: Any, place: int, where: str) -> Row | Reject:
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[place].as_py()
        except UnicodeDecodeError:
            return Reject(f"column {name!r} is not UTF-8", where, is_damaged=True)
        except _BAD_CELLS:
            return Reject(
                f"column {name!r} holds a value that Python cannot hold", where, is_damaged=True
            )
    return row
