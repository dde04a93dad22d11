"""The ledger of a run: the pieces of documents that each step consumed, over all ranks.

The folder holds one chunk per rank and some steps (ledger_chunk.py). Rank r of W consumed the r-th
part of a step, so the entries of all ranks one behind the other are the global step, whatever the
number of ranks; it may change within a ledger.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.ledger_chunk import Chunk, Origin, Span
from biomamba.runtime.errors import DataError


@dataclass(frozen=True)
class _Section:
    """The chunks of all ranks that begin at one step; all of them hold the steps to `end_step`."""

    spans: list[Span]
    end_step: int

    @property
    def first_step(self) -> int:
        return self.spans[0].first_step


class Ledger:
    """A ledger on disk.

    Attributes:
        folder: Where it lies.
        origin: The run, as its last chunk names it.
        gaps: Steps that are not recorded, as (first, end): the run was resumed there without its
            earlier ledger.
        end_step: The step behind the last recorded one.
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
