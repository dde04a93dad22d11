"""What a ledger can be asked: one document, the whole run, or how two runs differ."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.ledger import Ledger

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
        repeats: Number of documents by how often they were begun; 0 is a document of which only
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
class Comparison:
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


def compare(first: Ledger, second: Ledger) -> Comparison:
    """Compare two runs step by step and document by document."""
    num_compared, difference = _compare_steps(first, second)
    mine, theirs = documents(first), documents(second)
    none = np.empty(0, dtype=np.uint64)
    return Comparison(
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
