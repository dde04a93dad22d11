"""One file of a ledger: which pieces of documents one rank consumed in some steps of a run.

    magic | header, one line of JSON | columns, one behind the other | SHA-256 of all before

Every column is a plain little-endian array of the smallest unsigned type that holds it. A piece
takes 12 to 15 bytes (key 8, source 1, start 1 to 4, tokens 2), a step 1 or 2: at 400 tokens to a
piece about 35 MB per 1 G tokens.
"""

import json
import re
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.config.annotations import build_record
from biomamba.data.sealed import write_file
from biomamba.runtime.errors import DataError
from biomamba.runtime.input_files import LIST, OBJECT, Each, Shape, parse_json

# One piece of a document: the step that consumed it, the position of its source in the order of
# the sources, the key of the document, the first token of the piece there and its tokens.
ENTRY_DTYPE = np.dtype(
    [("step", "<u4"), ("source", "<u2"), ("key", "<u8"), ("start", "<u4"), ("tokens", "<u4")]
)
_COLUMNS = ("source", "key", "start", "tokens")
_MAGIC = b"biomamba ledger 1\n"
_HASH_BYTES = 32
_HEADER_SHAPE: Shape = {
    "origin": OBJECT,
    "span": OBJECT,
    "columns": Each(LIST, is_list=True),
}
_NAME = re.compile(r"(\d{8})-(\d{8})\.rank-(\d+)-of-(\d+)\.ledger")


@dataclass(frozen=True)
class Origin:
    """What is equal in all chunks of a run.

    Attributes:
        fingerprint: Identifies the stream of the run.
        sources: Names of the sources in the order that numbers them.
        stores: Token stores of each source; empty if the tokens came from elsewhere.
    """

    fingerprint: str
    sources: list[str]
    stores: dict[str, list[str]]


@dataclass(frozen=True, order=True)
class Span:
    """What a file covers, as its name says: the steps from `first_step` to before `end_step`."""

    first_step: int
    end_step: int
    rank: int
    world_size: int

    @property
    def name(self) -> str:
        """Name of the file."""
        steps = f"{self.first_step:08d}-{self.end_step:08d}"
        return f"{steps}.rank-{self.rank}-of-{self.world_size}.ledger"

    @classmethod
    def of(cls, name: str) -> "Span":
        """Read the name of a file.

        Raises:
            DataError: If it is no name of a chunk.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise DataError(f"{name} is no file of a ledger; take it out of the folder")
        return cls(*(int(part) for part in found.groups()))


@dataclass(frozen=True)
class Chunk:
    """The entries of one rank in some steps.

    Attributes:
        origin: The run.
        span: Steps and rank.
        entries: (pieces,) ENTRY_DTYPE, in the order of the stream.
    """

    origin: Origin
    span: Span
    entries: NDArray[Any]

    def before(self, step: int) -> "Chunk":
        """Return the part that lies before a step within the span."""
        span = Span(self.span.first_step, step, self.span.rank, self.span.world_size)
        return Chunk(self.origin, span, self.entries[self.entries["step"] < step])

    def write(self, folder: Path) -> None:
        """Write the file of this chunk, whole or not at all."""
        num_steps = self.span.end_step - self.span.first_step
        steps = self.entries["step"].astype(np.int64) - self.span.first_step
        columns = {"pieces": np.bincount(steps, minlength=num_steps)}
        columns |= {name: self.entries[name] for name in _COLUMNS}
        packed = {name: _packed(column) for name, column in columns.items()}
        header = {
            "origin": asdict(self.origin),
            "span": asdict(self.span),
            "columns": [[name, column.dtype.str, len(column)] for name, column in packed.items()],
        }
        content = _MAGIC + json.dumps(header, separators=(",", ":")).encode() + b"\n"
        content += b"".join(column.tobytes() for column in packed.values())
        write_file(folder / self.span.name, content + sha256(content).digest())

    @classmethod
    def read(cls, path: Path) -> "Chunk":
        """Read the file of a chunk.

        Raises:
            DataError: If it is missing, cut, changed or renamed.
        """
        try:
            stored = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        content, digest = stored[:-_HASH_BYTES], stored[-_HASH_BYTES:]
        if not content.startswith(_MAGIC) or sha256(content).digest() != digest:
            raise DataError(
                f"{path} is damaged or cut: its content does not match its checksum; copy it "
                "again, or remove the chunks of these steps"
            )
        line, _, body = content[len(_MAGIC) :].partition(b"\n")
        header = parse_json(line.decode(errors="replace"), str(path), _HEADER_SHAPE)
        span = build_record(Span, header.get("span") or {}, path)
        if span != Span.of(path.name):
            raise DataError(f"{path} is renamed: it was written as {span.name}")
        origin = build_record(Origin, header.get("origin") or {}, path)
        try:
            return cls(origin, span, _entries(header.get("columns") or [], body, span))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: its columns are not those of a ledger: {error}") from error


def _packed(column: NDArray[Any]) -> NDArray[Any]:
    largest = int(column.max()) if len(column) else 0
    return column.astype(np.min_scalar_type(largest).newbyteorder("<"))


def _entries(columns: list[tuple[str, str, int]], body: bytes, span: Span) -> NDArray[Any]:
    found, offset = {}, 0
    for name, dtype, length in columns:
        found[name] = np.frombuffer(body, dtype=dtype, count=length, offset=offset)
        offset += found[name].nbytes
    # Before memory is taken for them: the counts are what the columns hold.
    if any(array.dtype.kind != "u" for array in found.values()):
        raise ValueError("a column does not hold unsigned numbers")
    if len(found["pieces"]) != span.end_step - span.first_step:
        raise ValueError(f"{len(found['pieces']):,} steps are not those of the name")
    if any(len(found[name]) != int(found["pieces"].sum()) for name in _COLUMNS):
        raise ValueError("its columns differ in length")
    entries = np.empty(len(found["key"]), dtype=ENTRY_DTYPE)
    entries["step"] = np.repeat(np.arange(span.first_step, span.end_step), found["pieces"])
    for name in _COLUMNS:
        entries[name] = found[name]
    return entries
