"""Which record of a PMID stands after all files, found from the keys alone.

PubMed is a series of files: a later file revises or deletes what earlier ones hold, and a file may
hold several versions of one article. A first pass collects 6 bytes per record; then the files are
walked from the last to the first with one byte per PMID, which says what happened to it later.
Nothing depends on the number of workers.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from biomamba.data.file_keys import FileKeys, cached_keys
from biomamba.data.worker_pool import map_on

Fates = NDArray[np.uint8]


class Fate(IntEnum):
    """What becomes of one record."""

    KEPT = 0
    REVISED = 1
    DELETED = 2
    OLDER = 3
    NO_PMID = 4

    @property
    def reason(self) -> str:
        """How rejects of this kind are counted."""
        return _REASONS[self]


_REASONS = {
    Fate.KEPT: "kept",
    Fate.REVISED: "revised later",
    Fate.DELETED: "deleted",
    Fate.OLDER: "older version",
    Fate.NO_PMID: "no PMID",
}


def read_all_keys(
    paths: Sequence[Path], num_workers: int, cache: Path | None = None
) -> list[FileKeys]:
    """Read the keys of all files, in their order; progress goes to stderr.

    Args:
        paths: The files.
        num_workers: Processes; 1 reads in this one.
        cache: Folder that keeps what was read for the next run; None keeps nothing.

    Raises:
        DataError: If a file is not PubMed XML or is damaged.
    """
    read = partial(cached_keys, folder=cache)
    found = dict(_tracked(map_on(read, paths, num_workers), len(paths)))
    return [found[path] for path in paths]


def decide(files: Sequence[FileKeys]) -> list[Fates]:
    """Return the fate of every record of every file.

    Within a file the highest version of a PMID stands, the last one of equals. A record of a later
    file replaces all earlier ones, whatever their versions. A deletion takes the records of its
    own and of earlier files; a later file may bring the PMID back. What happened first counts.

    Args:
        files: In the order in which NLM published them.
    """
    largest = max(
        (int(pmids.max(initial=0)) for f in files for pmids in (f.pmids, f.deleted)), default=0
    )
    later = np.zeros(largest + 1, dtype=np.uint8)
    fates: list[Fates] = []
    for keys in reversed(files):
        later[keys.deleted] = Fate.DELETED
        fates.append(_file_fates(keys, later))
        later[keys.pmids] = Fate.REVISED
    return fates[::-1]


def _file_fates(keys: FileKeys, later: Fates) -> Fates:
    # Sorted by PMID, then version, then place in the file: the last of each run stands.
    order = np.lexsort((keys.versions, keys.pmids))
    pmids, versions = keys.pmids[order], keys.versions[order]
    is_last = np.append(pmids[1:] != pmids[:-1], True)[: len(pmids)]
    run = np.cumsum(is_last) - is_last
    is_older = versions < versions[is_last][run]
    sorted_fates = np.where(is_last, later[pmids], np.where(is_older, Fate.OLDER, Fate.REVISED))
    sorted_fates[pmids == 0] = Fate.NO_PMID
    fates = np.empty(len(order), dtype=np.uint8)
    fates[order] = sorted_fates
    return fates


def _tracked(keys: Iterable[tuple[Path, FileKeys]], total: int) -> Iterable[tuple[Path, FileKeys]]:
    console = Console(stderr=True)
    return track(keys, "PubMed revisions", total=total, console=console, transient=True)
