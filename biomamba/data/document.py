"""One document of a corpus, the row that could not become one, and the key that names it.

The key decides everything that must survive re-crawling and re-sharding: the split and the
detection of duplicates. It is a hash of the document id alone, never of a position in a file.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biomamba.runtime.errors import DataError
from biomamba.runtime.input_files import loads
from biomamba.runtime.numbers import check_whole

# -------------------------------------------------------------------------------------------------
# What the record of a published document says about it: its year and its MeSH descriptors.
#
# A file of facts has a line per document, in the order of the documents:
#
#     {"documents": 2, "years": {"2016": 1}}             how many documents a year has
#     [["D000368", "Aged"], ["D009369", "Neoplasms"]]    UI and name of the descriptors below
#     2016 0 1*                                          year, descriptors by number, * a major
#     topic
#                                                        an empty line: nothing is known
#
# A year that is not known is `-`. Facts are of public records only, and hold no text of a document.
# -------------------------------------------------------------------------------------------------

FACTS_KIND = "facts"  # ending of the files
_YEAR = re.compile(r"(?<!\d)(?:1[5-9]|2[01])\d\d(?!\d)")
_NO_YEAR, _MAJOR = "-", "*"


@dataclass(frozen=True, slots=True, order=True)
class MeshTerm:
    """A MeSH descriptor of a document.

    Attributes:
        ui: Its identifier, for example `D009369`; empty if the record does not tell it.
        name: As in the record: names change over the years.
        is_major: The document is about it, or about one of its qualifiers.
    """

    ui: str
    name: str
    is_major: bool = False


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """What is known of a document: its year or None, and its MeSH descriptors."""

    year: int | None = None
    mesh: tuple[MeshTerm, ...] = ()


Facts = Sequence[DocumentFacts | None]
Descriptors = Sequence[Sequence[str]]


def year_of(text: str) -> int | None:
    """Return the first number of a text that is a year from 1500 to 2199."""
    found = _YEAR.search(text)
    return int(found.group()) if found else None


def facts_bytes(facts: Facts) -> bytes | None:
    """Return the content of a file of facts; None if nothing is known of any document."""
    known = [each for each in facts if each is not None]
    if not known:
        return None
    years = Counter(str(each.year) for each in known if each.year is not None)
    descriptors, lines = encode(facts)
    head = [
        json.dumps({"documents": len(facts), "years": dict(sorted(years.items()))}),
        json.dumps(descriptors),
    ]
    return ("\n".join([*head, *lines]) + "\n").encode()


def read_facts(path: Path) -> list[DocumentFacts | None]:
    """Read a file of facts, one entry per document.

    Raises:
        DataError: If it is none, or damaged.
    """
    try:
        head, descriptors, *lines = path.read_text(encoding="utf-8").split("\n")
        count = loads(head)["documents"]
        facts = decode(loads(descriptors), lines[:-1])
        if count != len(facts) or lines[-1:] != [""]:
            raise ValueError(f"{len(facts)} lines instead of {count}")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise _damaged(path, error) from error
    return facts


def read_years(path: Path) -> dict[int, int]:
    """Read how many documents of a file each year has, without reading the rest.

    Raises:
        DataError: If it is none, or damaged.
    """
    try:
        with path.open(encoding="utf-8") as file:
            years = loads(file.readline())["years"]
        return {int(year): int(count) for year, count in years.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def encode(facts: Facts) -> tuple[list[list[str]], list[str]]:
    """Return the descriptors in the order of their UI, and one line per document."""
    terms = {(term.ui, term.name) for each in facts if each is not None for term in each.mesh}
    numbers = {term: str(number) for number, term in enumerate(sorted(terms))}
    return [list(term) for term in numbers], [_line(each, numbers) for each in facts]


def decode(descriptors: Descriptors, lines: Sequence[str]) -> list[DocumentFacts | None]:
    """Return the facts of every document; the other way round from `encode`.

    Raises:
        ValueError: If a line is none of `encode`.
        IndexError: If it names a descriptor that is not there.
    """
    return [_facts(descriptors, line) for line in lines]


def _line(facts: DocumentFacts | None, numbers: dict[tuple[str, str], str]) -> str:
    if facts is None:
        return ""
    words = [_NO_YEAR if facts.year is None else str(facts.year)]
    words += [numbers[term.ui, term.name] + _MAJOR * term.is_major for term in facts.mesh]
    return " ".join(words)


def _facts(descriptors: Descriptors, line: str) -> DocumentFacts | None:
    if not line:
        return None
    year, *words = line.split(" ")
    mesh = []
    for word in words:
        number = int(word.removesuffix(_MAJOR))
        if number < 0:
            raise ValueError(f"no descriptor has number {number}")
        ui, name = descriptors[number]
        mesh.append(MeshTerm(ui, name, word.endswith(_MAJOR)))
    return DocumentFacts(None if year == _NO_YEAR else int(year), tuple(mesh))


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} is no file of facts, or damaged ({error}); prepare the store again with "
        "overwrite=true, or copy it again"
    )


# -------------------------------------------------------------------------------------------------
# One document of a corpus, the row that could not become one, and the key that names it.
# -------------------------------------------------------------------------------------------------

SPLITS = ("train", "val", "test")
_PERMILLE = 1000


@dataclass(frozen=True, slots=True)
class Document:
    """A text to train on or to score.

    Attributes:
        text: The cleaned text.
        id: Stable key within the corpus: PMID, URL, page id, or a hash of the text.
        domain: Name of the kind of text, for example `pubmed`.
        group: Documents of one group share a split, for example those of one patient; None stands
            for the id: the document is a group of its own.
        facts: What its public record says about it; None: nothing.
    """

    text: str
    id: str
    domain: str
    group: str | None = None
    facts: DocumentFacts | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that did not become a document.

    Attributes:
        reason: Short and countable, without the offending value.
        id: Where the row is or what its id is; None if neither is known.
        is_damaged: True for technical faults, which stop the stage beyond a fraction; False for
            rows that the cleaning policy leaves out.
    """

    reason: str
    id: str | None
    is_damaged: bool = False


@dataclass(frozen=True)
class SplitRule:
    """Assign documents to splits by their key, before anything is cut.

    Attributes:
        val_permille: Thousandths of the key space that go to `val`.
        test_permille: Thousandths of the key space that go to `test`.
    """

    val_permille: int
    test_permille: int

    def __post_init__(self) -> None:
        check_whole("val_permille", self.val_permille, at_least=0)
        check_whole("test_permille", self.test_permille, at_least=0)
        if self.val_permille + self.test_permille >= _PERMILLE:
            raise ValueError(f"val_permille + test_permille must stay below 1000: {self}")

    def split_of(self, key: int) -> str:
        """Name the split of one document key."""
        return SPLITS[int(self.indices(np.array([key], dtype=np.uint64))[0])]

    def indices(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return for each key the index of its split in SPLITS."""
        bucket = (keys % np.uint64(_PERMILLE)).astype(np.int64)
        in_test = bucket < self.test_permille
        in_val = (bucket < self.test_permille + self.val_permille) & ~in_test
        return np.where(in_test, 2, np.where(in_val, 1, 0)).astype(np.int64)


def document_key(document_id: str) -> int:
    """Hash a document id to 64 bits."""
    digest = blake2b(document_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def text_id(text: str) -> str:
    """Name a document without an id of its own by its content."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
