"""One item of a benchmark, and what every benchmark offers to the firewall."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from biomamba.data.raw_files import expand_files
from biomamba.data.sealed import sha256_of
from biomamba.runtime.errors import DataError


@dataclass(frozen=True)
class Item:
    """A question or article that a model will be tested on.

    Attributes:
        id: Name within the benchmark.
        texts: What must not be trained on; an n-gram never crosses two of them.
        pmids: PubMed articles that hold the answer.
        title: Title of the Wikipedia article that the item is; None if it is none.
        num_unknown_links: Links to articles that name no PMID.
    """

    id: str
    texts: Sequence[str]
    pmids: Sequence[str] = ()
    title: str | None = None
    num_unknown_links: int = 0


class Benchmark(Protocol):
    """A benchmark that the user has as files."""

    def fingerprints(self) -> dict[str, str]:
        """Return the hash of each of its files by name.

        Raises:
            DataError: If one is missing.
        """

    def items(self) -> Iterator[Item]:
        """Iterate over its items in a fixed order.

        Raises:
            DataError: If a file is not of the layout of the benchmark.
        """

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the items, apart from the bytes of the files."""


def hash_files(paths: Sequence[Path]) -> dict[str, str]:
    """Return the hash of each file by name; with its folder where two of them share the name.

    Files of the same name and content count once.
    """
    names = [path.name for path in paths]
    hashes: dict[str, str] = {}
    for path in paths:
        digest = f"sha256:{sha256_of(path)}"
        if hashes.setdefault(path.name, digest) != digest and names.count(path.name) > 1:
            hashes[f"{path.absolute().parent.name}/{path.name}"] = digest
    return hashes


def distinct_files(entries: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """Return the files that entries name, of those with the same bytes the first.

    A pattern that matches nothing gives nothing, as long as another entry gives a file: a release
    may lie in one of several folders. Which patterns are empty says `empty_patterns`.

    Raises:
        DataError: If none gives a file, or one that is named without `*` is missing.
    """
    empty = set(empty_patterns(entries))
    if len(empty) == len(set(entries)):
        raise DataError(f"no raw file matches {' or '.join(dict.fromkeys(entries))}")
    found = [
        path for entry in entries if entry not in empty for path in expand_files(entry, suffixes)
    ]
    by_content: dict[str, Path] = {}
    for path in found:
        by_content.setdefault(sha256_of(path), path)
    return list(by_content.values())


def empty_patterns(entries: Sequence[str]) -> list[str]:
    """Return the patterns with `*` that match no file."""
    return [
        entry
        for entry in dict.fromkeys(entries)
        if "*" in Path(entry).name and not any(Path(entry).parent.glob(Path(entry).name))
    ]


def text_list(value: Any) -> list[str] | None:
    """Return a text, a list of texts or null as a list of texts; None for anything else."""
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        return None
    return values


# A bare number, `PMID: 123`, `pubmed:123` or `123[uid]`, with a version behind a point or without.
_BARE = re.compile(r"(?:pmid|pubmed(?: id)?|medline|med)?[\s:=#]*0*(\d{1,8})(?:\.\d+)?(?:\[\w+\])?")
# .../pubmed/123, pubmed.ncbi.nlm.nih.gov/123, europepmc.org/article/MED/123
_IN_PATH = re.compile(
    r"(?:pubmed(?:\.ncbi\.nlm\.nih\.gov)?(?::443|:80)?|europepmc\.org/\w+/med|/pmid)"
    r"[/:]+0*(\d{1,8})(?!\d)"
)
# .../pubmed/?term=123, ?cmd=retrieve&list_uids=123,456
_IN_QUERY = re.compile(r"[?&;](?:term|uids?|list_uids|pmids?|ids?|from_uid)=([^&#]*)")
_NUMBER = re.compile(r"(?<![\w.])\d{1,9}(?!\w)")


def pmids_of(link: object) -> list[str]:
    """Return the PMIDs that a link or a number names, without leading zeros; none if it names none.

    A link is what data sets write: a bare PMID, also as a number, `PMID: 123`, a URL of PubMed of
    any year with the PMID in its path or in its query, or one of Europe PMC.
    """
    if isinstance(link, bool) or not isinstance(link, str | int):
        return []
    text = unquote(str(link)).strip().lower()
    if whole := _BARE.fullmatch(text):
        found = [whole[1]]
    elif in_path := _IN_PATH.search(text):
        found = [in_path[1]]
    elif ("pubmed" in text or "entrez" in text or "europepmc" in text) and (
        query := _IN_QUERY.search(text)
    ):
        found = _NUMBER.findall(re.sub(r"\[\w+\]", " ", query[1]).replace("+", " "))
    else:
        found = []
    return list(dict.fromkeys(str(int(number)) for number in found if int(number)))
