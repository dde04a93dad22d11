"""The ledger of a run: which pieces of documents each step consumed, and queries about it."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.config.annotations import build_record
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import write_file
from biomamba.runtime.input_files import LIST, OBJECT, Each, Shape, parse_json

# -------------------------------------------------------------------------------------------------
# One file of a ledger: which pieces of documents one rank consumed in some steps of a run.
#
#     magic | header, one line of JSON | columns, one after the other | SHA-256 of all before
#
# Every column is a plain little-endian array of the smallest unsigned type that holds it. A piece
# takes 12 to 15 bytes (key 8, source 1, start 1 to 4, tokens 2), a step 1 or 2: at 400 tokens to a
# piece about 35 MB per 1 G tokens.
# -------------------------------------------------------------------------------------------------

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
        """Return the part that is before a step within the span."""
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


# -------------------------------------------------------------------------------------------------
# The ledger of a run: the pieces of documents that each step consumed, over all ranks.
#
# The folder holds one chunk per rank and some steps (see above). Rank r of W consumed the
# r-th part of a step, so the entries of all ranks one after the other are the global step, whatever
# the number of ranks; it may change within a ledger.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Section:
    """The chunks of all ranks that start at one step; all of them hold the steps to `end_step`."""

    spans: list[Span]
    end_step: int

    @property
    def first_step(self) -> int:
        return self.spans[0].first_step


class Ledger:
    """A ledger on disk.

    Attributes:
        folder: Where it is.
        origin: The run, as its last chunk names it.
        gaps: Steps that are not recorded, as (first, end): the run was resumed there without its
            earlier ledger.
        end_step: The step after the last recorded one.
        num_unfinished_steps: Steps at the end that only some of the ranks wrote before the run
            was killed; they are left out.

    Args:
        folder: Folder of the chunks.

    Raises:
        DataError: If there is no ledger, or a chunk is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        spans = chunk_spans(folder)
        if not spans:
            raise DataError(
                f"no ledger in {folder}; a run with callbacks.ledger writes one, from its first "
                "checkpoint on"
            )
        self.origin: Origin = Chunk.read(folder / spans[-1].name).origin
        groups = [list(group) for _, group in groupby(spans, key=lambda span: span.first_step)]
        self.num_unfinished_steps = 0
        self._sections = [
            section
            for number, group in enumerate(groups)
            if (section := self._section(group, is_last=number == len(groups) - 1))
        ]
        if not self._sections:
            raise DataError(f"the ledger in {folder} has no step that all ranks wrote")
        firsts = [section.first_step for section in self._sections]
        ends = [0, *(section.end_step for section in self._sections)]
        if any(first < end for end, first in zip(ends, firsts, strict=False)):
            raise DataError(f"chunks of the ledger in {folder} overlap; keep those of one run")
        pairs = zip(ends, firsts, strict=False)
        self.gaps = [(end, first) for end, first in pairs if end < first]
        self.end_step = ends[-1]

    @property
    def num_steps(self) -> int:
        """Number of recorded steps."""
        return sum(section.end_step - section.first_step for section in self._sections)

    def chunks(self) -> Iterator[NDArray[Any]]:
        """Iterate over the entries of all ranks, some steps at a time, in order."""
        for section in self._sections:
            entries = np.concatenate([self._read(span) for span in section.spans])
            entries = entries[entries["step"] < section.end_step]
            yield entries[np.argsort(entries["step"], kind="stable")]

    def steps(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Iterate over the recorded steps and the entries of each."""
        for section, entries in zip(self._sections, self.chunks(), strict=True):
            first, end = section.first_step, section.end_step
            bounds = np.searchsorted(entries["step"], np.arange(first, end + 1))
            for step, (begin, stop) in zip(range(first, end), pairwise(bounds), strict=True):
                yield step, entries[begin:stop]

    def _read(self, span: Span) -> NDArray[Any]:
        chunk = Chunk.read(self.folder / span.name)
        for name in ("fingerprint", "sources"):
            if getattr(chunk.origin, name) != getattr(self.origin, name):
                raise DataError(f"{self.folder / span.name} is of another run: its {name} differ")
        return chunk.entries

    def _section(self, spans: list[Span], *, is_last: bool) -> _Section | None:
        """Check that the chunks of all ranks are there; a killed run may end in the middle."""
        spans = sorted(spans, key=lambda span: span.rank)
        ends = [span.end_step for span in spans]
        world_size = spans[0].world_size
        expected = {
            Span(spans[0].first_step, max(ends), rank, world_size).name
            for rank in range(world_size)
        }
        found = {span.name for span in spans}
        if found == expected:
            return _Section(spans, min(ends))
        if not is_last:
            raise DataError(
                f"the ledger in {self.folder} is not whole: it lacks {sorted(expected - found)}"
            )
        places = [(span.rank, span.world_size) for span in spans]
        has_all_ranks = places == [(rank, world_size) for rank in range(world_size)]
        end_step = min(ends) if has_all_ranks else spans[0].first_step
        self.num_unfinished_steps = max(ends) - end_step
        return _Section(spans, end_step) if end_step > spans[0].first_step else None


def chunk_spans(folder: Path) -> list[Span]:
    """Return what the chunks in a folder cover, in order; none if there is no folder."""
    return sorted(Span.of(path.name) for path in folder.glob("*.ledger"))


def num_recorded_steps(folder: Path, step: int) -> int:
    """Count the steps before `step` that all ranks wrote."""
    spans = chunk_spans(folder)
    num_ranks = Counter((span.first_step, span.end_step, span.world_size) for span in spans)
    return sum(
        min(step, end) - first
        for (first, end, world_size), found in num_ranks.items()
        if found == world_size and first < step
    )


def cut_ledger(folder: Path, step: int, fingerprint: str) -> None:
    """Remove from a ledger what does not come before a step, and what is of another stream."""
    for leftover in folder.glob(".*.ledger.*.tmp"):
        leftover.unlink()
    for span in chunk_spans(folder):
        path = folder / span.name
        if span.first_step < step:
            chunk = Chunk.read(path)
            if chunk.origin.fingerprint == fingerprint:
                if span.end_step <= step:
                    continue
                chunk.before(step).write(folder)
        path.unlink()


def copy_ledger(source: Path, target: Path, step: int, fingerprint: str) -> None:
    """Copy from one ledger to another what comes before a step and is of this stream."""
    for span in chunk_spans(source):
        if span.first_step < step:
            chunk = Chunk.read(source / span.name)
            if chunk.origin.fingerprint == fingerprint:
                chunk.before(min(step, span.end_step)).write(target)


# -------------------------------------------------------------------------------------------------
# What a ledger can be asked: one document, the whole run, or how two runs differ.
# -------------------------------------------------------------------------------------------------

Keys = NDArray[np.uint64]


@dataclass(frozen=True)
class Sighting:
    """One time that a piece of a document was trained on.

    Attributes:
        step: The optimizer step, counted from 0.
        source: Name of the source.
        epoch: How often the first token of the piece had been trained on before.
        start: First token of the piece in the document.
        tokens: Tokens of the piece.
    """

    step: int
    source: str
    epoch: int
    start: int
    tokens: int


@dataclass(frozen=True)
class SourceTotals:
    """What a run has trained on of one source.

    Attributes:
        tokens: Tokens, repeated ones counted again.
        documents: Different documents.
        repeats: Number of documents by how often they were started; 0 is a document of which only
            a later piece was met.
    """

    tokens: int
    documents: int
    repeats: dict[int, int]


@dataclass(frozen=True)
class Overlap:
    """Different documents of one source in two runs."""

    both: int
    only_first: int
    only_second: int

    @property
    def shared_ratio(self) -> float:
        """Share of all documents of either run that both have seen."""
        return self.both / max(1, self.both + self.only_first + self.only_second)


@dataclass(frozen=True)
class LedgerComparison:
    """Two runs side by side.

    Attributes:
        num_compared_steps: Steps that both ledgers record.
        first_difference: The first of them that holds other pieces or another order; None if all
            are equal.
        overlaps: By source; a source that one run lacks has no documents there.
    """

    num_compared_steps: int
    first_difference: int | None
    overlaps: dict[str, Overlap]


def sightings(ledger: Ledger, key: int) -> list[Sighting]:
    """Return where the document of a key was trained on, in the order of the stream."""
    found = np.concatenate([part[part["key"] == np.uint64(key)] for part in ledger.chunks()])
    return [
        Sighting(
            step=int(entry["step"]),
            source=ledger.origin.sources[entry["source"]],
            epoch=_times_covered(found[:number], entry),
            start=int(entry["start"]),
            tokens=int(entry["tokens"]),
        )
        for number, entry in enumerate(found)
    ]


def totals(ledger: Ledger) -> dict[str, SourceTotals]:
    """Return what the run has trained on, source by source."""
    names = ledger.origin.sources
    tokens = np.zeros(len(names), dtype=np.int64)
    begun: list[list[Keys]] = [[] for _ in names]
    for entries in ledger.chunks():
        np.add.at(tokens, entries["source"], entries["tokens"].astype(np.int64))
        beginnings = entries[entries["start"] == 0]
        for index in range(len(names)):
            begun[index].append(beginnings["key"][beginnings["source"] == index])
    different = documents(ledger)
    return {
        name: SourceTotals(
            tokens=int(tokens[index]),
            documents=len(different[name]),
            repeats=_repeats(len(different[name]), np.concatenate(begun[index])),
        )
        for index, name in enumerate(names)
    }


def documents(ledger: Ledger) -> dict[str, Keys]:
    """Return the keys of the different documents of each source, sorted."""
    names = ledger.origin.sources
    keys: list[list[Keys]] = [[] for _ in names]
    for entries in ledger.chunks():
        for index in range(len(names)):
            keys[index].append(np.unique(entries["key"][entries["source"] == index]))
    return {name: np.unique(np.concatenate(keys[index])) for index, name in enumerate(names)}


def compare(first: Ledger, second: Ledger) -> LedgerComparison:
    """Compare two runs step by step and document by document."""
    num_compared, difference = _compare_steps(first, second)
    mine, theirs = documents(first), documents(second)
    none = np.empty(0, dtype=np.uint64)
    return LedgerComparison(
        num_compared_steps=num_compared,
        first_difference=difference,
        overlaps={
            name: _overlap(mine.get(name, none), theirs.get(name, none))
            for name in dict.fromkeys([*mine, *theirs])
        },
    )


def _times_covered(earlier: NDArray[Any], entry: Any) -> int:
    """Count the earlier pieces that hold the first token of this one."""
    of_source = earlier["source"] == entry["source"]
    starts = earlier["start"].astype(np.int64)
    holds = (starts <= entry["start"]) & (entry["start"] < starts + earlier["tokens"])
    return int((of_source & holds).sum())


def _repeats(num_documents: int, begun: Keys) -> dict[int, int]:
    _, times = np.unique(begun, return_counts=True)
    numbers = np.bincount(times)
    numbers = numbers if len(numbers) else np.zeros(1, dtype=np.int64)
    numbers[0] = num_documents - len(times)
    return {number: int(count) for number, count in enumerate(numbers) if count}


def _compare_steps(first: Ledger, second: Ledger) -> tuple[int, int | None]:
    """Count the steps that both record and find the first that differs; both are walked once."""
    names = first.origin.sources
    renumber = np.array(
        [names.index(n) if n in names else len(names) for n in second.origin.sources],
        dtype=np.uint16,
    )
    num_compared, difference = 0, None
    left, right = first.steps(), second.steps()
    mine, theirs = next(left, None), next(right, None)
    while mine is not None and theirs is not None:
        if mine[0] < theirs[0]:
            mine = next(left, None)
        elif theirs[0] < mine[0]:
            theirs = next(right, None)
        else:
            entries = theirs[1].copy()
            entries["source"] = renumber[entries["source"]]
            num_compared += 1
            if difference is None and not np.array_equal(mine[1], entries):
                difference = mine[0]
            mine, theirs = next(left, None), next(right, None)
    return num_compared, difference


def _overlap(mine: Keys, theirs: Keys) -> Overlap:
    both = len(np.intersect1d(mine, theirs, assume_unique=True))
    return Overlap(both, len(mine) - both, len(theirs) - both)
