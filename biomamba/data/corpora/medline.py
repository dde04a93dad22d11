"""PubMed from its own XML: title, blank line, abstract, of the records that still stand."""

import logging
import re
import zlib
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from biomamba.data.corpora.pubmed_xml import (
    Citation,
    citation_of,
    elements,
    is_record,
    read_citation,
    read_deletions,
    read_key,
)
from biomamba.data.document import Document, DocumentFacts, Reject
from biomamba.data.nlm_download import FileSource
from biomamba.data.prepare.workers import map_on
from biomamba.data.raw_shards import natural_order
from biomamba.data.rows import RawShard, Row
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import read_sealed, sha256_of, write_sealed
from biomamba.runtime.numbers import check_whole

# -------------------------------------------------------------------------------------------------
# The PMIDs and versions of one PubMed file, kept for the next run.
#
# A parse of all of PubMed takes hours, a hash of its files minutes. What a file gave is kept under
# the hash of its bytes, sealed: a stale or damaged record is read anew and never trusted.
# -------------------------------------------------------------------------------------------------

_LOG = logging.getLogger(__name__)
# Goes up when the same bytes would give other keys.
_FORMAT_VERSION = 1
_COLUMNS = {"pmids": "<u4", "versions": "<u2", "deleted": "<u4"}


@dataclass(frozen=True, eq=False)
class FileKeys:
    """The keys of one file.

    Attributes:
        pmids: `(records,)` in file order; 0 for a record without a usable PMID and version.
        versions: `(records,)`.
        deleted: PMIDs that the file deletes.
    """

    pmids: NDArray[np.uint32]
    versions: NDArray[np.uint16]
    deleted: NDArray[np.uint32]


def read_keys(path: Path) -> FileKeys:
    """Read the keys of one file.

    Raises:
        DataError: If the file is not PubMed XML or is damaged.
    """
    keys: list[tuple[int, int]] = []
    deleted = [np.empty(0, dtype=np.uint32)]
    for element in elements(path):
        if is_record(element, path):
            keys.append(read_key(element) or (0, 0))
        else:
            deleted.append(read_deletions(element, path))
    return FileKeys(
        pmids=np.array([pmid for pmid, _ in keys], dtype=np.uint32),
        versions=np.array([version for _, version in keys], dtype=np.uint16),
        deleted=np.concatenate(deleted),
    )


def cached_keys(path: Path, folder: Path | None) -> FileKeys:
    """Return the keys of one file, from the record in a folder if it fits the bytes of the file.

    Several processes may use one folder at once. A folder that cannot be written only costs time.

    Args:
        path: The file.
        folder: Where the records are; None reads the file and keeps nothing.

    Raises:
        DataError: If the file is not PubMed XML or is damaged.
    """
    if folder is None:
        return read_keys(path)
    identity = {"format_version": _FORMAT_VERSION, "file_sha256": _hash(path)}
    record = folder / f"{path.name}.json"
    if (kept := _unpack(record, identity)) is not None:
        return kept
    keys = read_keys(path)
    if _hash(path) != identity["file_sha256"]:
        raise DataError(
            f"{path} changed while it was read; wait until nobody writes to it and run again"
        )
    try:
        write_sealed(record, {**identity, **_pack(keys)})
    except DataError as error:
        _LOG.warning("the keys of %s are not kept: %s", path.name, error)
    return keys


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror}); mend the rights or fetch it again"
        ) from error


def _pack(keys: FileKeys) -> dict[str, str]:
    return {
        name: b64encode(zlib.compress(getattr(keys, name).astype(dtype).tobytes())).decode("ascii")
        for name, dtype in _COLUMNS.items()
    }


def _unpack(record: Path, identity: dict[str, Any]) -> FileKeys | None:
    try:
        content = read_sealed(record)
    except DataError as error:
        _LOG.debug("no record of keys: %s", error)
        return None
    if {name: content.get(name) for name in identity} != identity:
        return None
    arrays = {
        name: np.frombuffer(zlib.decompress(b64decode(content[name])), dtype)
        for name, dtype in _COLUMNS.items()
    }
    return FileKeys(**arrays)


# -------------------------------------------------------------------------------------------------
# Which record of a PMID stands after all files, found from the keys alone.
#
# PubMed is a series of files: a later file revises or deletes what earlier ones hold, and a file
# may hold several versions of one article. A first pass collects 6 bytes per record; then the files
# are walked from the last to the first with one byte per PMID, which says what happened to it
# later. Nothing depends on the number of workers.
# -------------------------------------------------------------------------------------------------

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


# -------------------------------------------------------------------------------------------------
# PubMed from its own XML: title, blank line, abstract, of the records that still stand.
# -------------------------------------------------------------------------------------------------

_YEAR = re.compile(r"(?:pubmed|medline)(\d\d)n\d+", re.IGNORECASE)
# The second name was used until 2024.
_RETRACTION_NOTICES = {"Retraction Notice", "Retraction of Publication"}
_FACTS = ["year", "mesh"]


@dataclass(frozen=True)
class MedlineCorpus:
    r"""Articles as `title + "\n\n" + abstract`, one per PMID, named by the PMID.

    The files count as published in the order of their names. What a later file revises or deletes
    is left out before the rules below, and each row left out is counted by reason.

    Attributes:
        source: The baseline and update files.
        licence: Terms of use, written into the manifest.
        domain: Name of the kind of text.
        require_abstract: Leave out records without an abstract; False keeps their titles.
        keep_labels: Write the headings of structured abstracts, as in `METHODS: We ...`.
        drop_retracted: Leave out retracted articles and the notices of retraction.
        languages: Keep articles in one of these languages, as ISO 639-2 codes (`eng`), whatever
            the language of the abstract; None keeps all.
        min_year: Leave out articles of earlier or unknown years; None keeps all.
        max_year: Leave out articles of later or unknown years; None keeps all.
        one_baseline: Refuse files of several years, because each year's baseline holds all of
            PubMed anew and what it left out is gone.
        keep_facts: Keep year and MeSH descriptors of each document beside its tokens; False
            continues stores that were prepared without them.
        num_workers: Processes of the pass that finds what stands; changes no document.
        cache_dir: Folder that keeps what this pass found in each file, so that the next run does
            not parse unchanged files again; None keeps nothing. Changes no document.
    """

    source: FileSource
    licence: str
    domain: str = "pubmed"
    require_abstract: bool = True
    keep_labels: bool = True
    drop_retracted: bool = True
    languages: list[str] | None = None
    min_year: int | None = None
    max_year: int | None = None
    one_baseline: bool = True
    keep_facts: bool = True
    num_workers: int = 1
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        check_whole("num_workers", self.num_workers)
        if self.languages is not None and not self.languages:
            raise ConfigError("languages is empty; name at least one, or null for all")
        if self._year_reason(self.min_year) == "after max_year":
            raise ConfigError(f"min_year {self.min_year} is after max_year {self.max_year}")

    def shards(self) -> Sequence[RawShard]:
        """Return one shard per file, after a first pass over all files.

        Raises:
            DataError: If there are no files, two share a name, they are of several years, or one is
                damaged or not PubMed.
        """
        paths = sorted(self.source.files(), key=natural_order)
        if not paths:
            raise DataError(f"{self.source} has no PubMed file")
        doubles = [name for name, count in Counter(p.name for p in paths).items() if count > 1]
        if doubles:
            raise DataError(f"PubMed files share a name: {', '.join(doubles)}; rename one of each")
        if self.one_baseline:
            _check_years(paths)
        cache = None if self.cache_dir is None else Path(self.cache_dir)
        fates = decide(read_all_keys(paths, self.num_workers, cache))
        return [MedlineShard(path, part) for path, part in zip(paths, fates, strict=True)]

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the documents, apart from the raw bytes."""
        return {
            "layout": type(self).__name__,
            "require_abstract": self.require_abstract,
            "keep_labels": self.keep_labels,
            "drop_retracted": self.drop_retracted,
            "languages": None if self.languages is None else sorted(self.languages),
            "min_year": self.min_year,
            "max_year": self.max_year,
            "source": self.source.settings(),
            # Not there without facts: as in the records of stores that never had them.
            **({"facts": _FACTS} if self.keep_facts else {}),
        }

    def documents(self, shard: RawShard) -> Iterator[Document | Reject]:
        """Turn the records of one file into documents, in order."""
        for row in shard.rows():
            if isinstance(row, Reject):
                yield row
            else:
                reason = self._reason(row["citation"])
                yield self._document(**row) if reason is None else Reject(reason, row["pmid"])

    def _reason(self, citation: Citation) -> str | None:
        if self.drop_retracted and citation.is_retracted:
            return "retracted"
        if self.drop_retracted and _RETRACTION_NOTICES & set(citation.publication_types):
            return "retraction notice"
        if self.languages is not None and not set(self.languages) & set(citation.languages):
            return "other language"
        return self._year_reason(citation.year)

    def _year_reason(self, year: int | None) -> str | None:
        if self.min_year is None and self.max_year is None:
            return None
        if year is None:
            return "no year"
        if self.min_year is not None and year < self.min_year:
            return "before min_year"
        if self.max_year is not None and year > self.max_year:
            return "after max_year"
        return None

    def _document(self, pmid: str, citation: Citation) -> Document | Reject:
        abstract = citation.abstract(keep_labels=self.keep_labels)
        if not abstract and self.require_abstract:
            return Reject("no abstract", pmid)
        text = "\n\n".join(part for part in (citation.title, abstract) if part)
        if not text:
            return Reject("no text", pmid)
        facts = DocumentFacts(citation.year, citation.mesh) if self.keep_facts else None
        return Document(text, pmid, self.domain, facts=facts)


@dataclass(frozen=True, eq=False)
class MedlineShard:
    """One PubMed file and the fate of each of its records."""

    path: Path
    fates: Fates

    @property
    def name(self) -> str:
        """The file name."""
        return self.path.name

    def fingerprint(self) -> str:
        """Hash the bytes of the file and the fates, which other files decide."""
        return f"sha256:{sha256_of(self.path)} fates:{sha256(self.fates.tobytes()).hexdigest()}"

    def rows(self) -> Iterator[Row | Reject]:
        """Iterate over the records as `{"pmid": str, "citation": Citation}`.

        Raises:
            DataError: If the file is damaged or no longer what the first pass read.
        """
        number = 0
        for element in elements(self.path):
            if not is_record(element, self.path):
                continue
            fate = Fate(self.fates[number]) if number < len(self.fates) else None
            key, citation = read_key(element), citation_of(element)
            number += 1
            if fate is None or (key is None) != (fate == Fate.NO_PMID):
                raise self._changed()
            if key is None or citation is None:
                yield Reject(Fate.NO_PMID.reason, f"{self.name} record {number}", is_damaged=True)
            elif fate != Fate.KEPT:
                yield Reject(fate.reason, str(key[0]))
            elif element.tag == "PubmedBookArticle":
                yield Reject("book", str(key[0]))
            else:
                yield {"pmid": str(key[0]), "citation": read_citation(citation)}
        if number != len(self.fates):
            raise self._changed()

    def _changed(self) -> DataError:
        return DataError(
            f"{self.path} has changed since the first pass over it; wait until nobody writes to it "
            "and run again"
        )


def _check_years(paths: Sequence[Path]) -> None:
    years = {found[1]: path for path in paths if (found := _YEAR.match(path.name))}
    if len(years) > 1:
        examples = ", ".join(path.name for _, path in sorted(years.items()))
        raise DataError(
            f"PubMed files of several years: {examples}; each baseline holds all of PubMed anew, "
            "keep the files of one year, or set one_baseline=false"
        )
