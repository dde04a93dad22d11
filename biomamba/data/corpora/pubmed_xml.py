"""Stream the records of PubMed baseline and update files in flat memory.

A first parser reads the start of the file up to its root element, with handlers that refuse every
declaration of an entity. The parser that builds elements starts at the root and never sees a
document type: nothing is fetched or expanded, and an entity that nobody declared is an error, in
attributes too, where a parser that knows of an external document type drops it without a word.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from biomamba.data.document import MeshTerm, year_of
from biomamba.runtime.errors import DataError

ROOTS = ("PubmedArticleSet", "MedlineCitationSet")
# PMIDs have up to 8 digits; the bound keeps arrays that are indexed by PMID below 100 MB.
MAX_PMID = 99_999_999
MAX_VERSION = 65_535
_RECORDS = ("PubmedArticle", "MedlineCitation", "PubmedBookArticle")
# The last two come from expat for encodings it does not know.
_FAULTS = (OSError, EOFError, zlib.error, ParseError, expat.ExpatError, LookupError, ValueError)
_DELETIONS = ("DeleteCitation", "DeleteDocument")
# 15,000 collaborators with their addresses are about 6 MB; 32 MiB of `<a/>` take below 1 GB.
MAX_RECORD_BYTES = 1 << 25
# Few living elements keep the garbage collector idle: 16 KiB parse twice as fast as 256 KiB.
_BLOCK_BYTES = 1 << 14
_MAX_PROLOG_BYTES = 1 << 20


def elements(path: Path) -> Iterator[Element]:
    """Iterate over the elements under the root, each dropped from memory after its turn.

    Raises:
        DataError: If the file is not PubMed XML, declares an entity, or is cut short or damaged.
    """
    try:
        with _open(path) as file:
            yield from _stream(file, path)
    except _FAULTS as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(
            f"cannot read {path} to its end ({reason}); fetch the file again"
        ) from error


def is_record(element: Element, path: Path) -> bool:
    """Say whether an element under the root is a record; otherwise it is a list of deletions.

    Raises:
        DataError: If it is neither.
    """
    if element.tag in _RECORDS:
        return True
    if element.tag in _DELETIONS:
        return False
    known = ", ".join((*_RECORDS, *_DELETIONS))
    raise DataError(f"{path} has <{element.tag}> under its root; known: {known}")


def citation_of(record: Element) -> Element | None:
    """Return the element of a record that holds its PMID and fields."""
    if record.tag == "PubmedArticle":
        return record.find("MedlineCitation")
    return record if record.tag == "MedlineCitation" else record.find("BookDocument")


def read_key(record: Element) -> tuple[int, int] | None:
    """Return PMID and version of a record; None if either is missing or no number in range."""
    citation = citation_of(record)
    element = None if citation is None else citation.find("PMID")
    if element is None:
        return None
    pmid = _number(element.text, MAX_PMID)
    version = _number(element.get("Version", "1"), MAX_VERSION)
    return None if pmid is None or version is None else (pmid, version)


def read_deletions(element: Element, path: Path) -> NDArray[np.uint32]:
    """Return the PMIDs that a DeleteCitation names.

    Raises:
        DataError: If one of them is no PMID; a lost deletion could not be counted.
    """
    pmids = []
    for child in element:
        pmid = _number(child.text, MAX_PMID) if child.tag == "PMID" else None
        if pmid is None:
            raise DataError(
                f"{path} deletes {child.text!r} (<{child.tag}>), which is no PMID; "
                "a PMID has 1 to 8 digits, fetch the file again"
            )
        pmids.append(pmid)
    return np.array(pmids, dtype=np.uint32)


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def _stream(file: IO[bytes] | gzip.GzipFile, path: Path) -> Iterator[Element]:
    prolog = _Prolog(path)
    start = prolog.read(file)
    # The builder gets an element around the document, so that the growing root can be seen without
    # an event per element, which would halve the speed.
    builder = TreeBuilder()
    around = builder.start("file", {})
    parser = XMLParser(target=builder, encoding=prolog.encoding)
    num_read, num_pending_bytes = 0, 0
    for block in chain([start], iter(lambda: file.read(_BLOCK_BYTES), b"")):
        parser.feed(block)
        num_pending_bytes += len(block)
        if len(around) and len(around[0]) > 1:
            root = around[0]
            # The last child may still grow.
            yield from root[:-1]
            num_read += len(root) - 1
            del root[:-1]
            num_pending_bytes = len(block)
        if num_pending_bytes > MAX_RECORD_BYTES:
            raise DataError(
                f"record {num_read + 1} of {path} has more than {MAX_RECORD_BYTES} bytes; PubMed "
                "has none of that size, fetch the file again"
            )
    builder.end("file")
    parser.close()
    yield from around[0]


class _Prolog:
    """Reads up to the root element and refuses entities and documents of another kind.

    Attributes:
        encoding: As the file declares it; None if it does not.
    """

    def __init__(self, path: Path) -> None:
        self.encoding: str | None = None
        self._path = path
        self._root_index: int | None = None
        self._parser = expat.ParserCreate()
        self._parser.XmlDeclHandler = self._note_encoding
        self._parser.EntityDeclHandler = self._refuse_entity
        self._parser.SkippedEntityHandler = self._refuse_entity
        self._parser.StartElementHandler = self._check_root

    def read(self, file: IO[bytes] | gzip.GzipFile) -> bytes:
        """Return what has been read of the file from the root element on.

        Raises:
            DataError: If an entity is declared, or there is no root element of PubMed in reach.
        """
        head = b""
        while self._root_index is None:
            block = file.read(_BLOCK_BYTES)
            head += block
            if len(head) > _MAX_PROLOG_BYTES:
                raise DataError(f"{self._path} does not start as PubMed XML; fetch it again")
            # The last call raises if the document ended before its root.
            self._parser.Parse(block, not block)
        return head[self._root_index :]

    def _note_encoding(self, version: str, encoding: str | None, standalone: int) -> None:
        del version, standalone
        self.encoding = encoding

    def _refuse_entity(self, name: str, *_: object) -> None:
        raise DataError(
            f"{self._path} declares or uses the entity {name!r} in its document type; PubMed files "
            "declare none, and such a file is refused unread"
        )

    def _check_root(self, name: str, _: object) -> None:
        if name not in ROOTS:
            raise DataError(
                f"{self._path} is not PubMed XML: its root is <{name}>; known: {', '.join(ROOTS)}"
            )
        self._root_index = self._parser.CurrentByteIndex
        # No declaration can follow; the rest of the block belongs to the other parser.
        self._parser.StartElementHandler = None
        self._parser.SkippedEntityHandler = None


def _number(text: str | None, maximum: int) -> int | None:
    text = (text or "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(maximum))):
        return None
    number = int(text)
    return number if 1 <= number <= maximum else None


# -------------------------------------------------------------------------------------------------
# The fields of one PubMed citation, as text without markup.
# -------------------------------------------------------------------------------------------------

_NO_LABELS = ("UNLABELLED", "UNLABELED", "UNASSIGNED")


@dataclass(frozen=True, slots=True)
class Section:
    """One AbstractText.

    Attributes:
        label: Heading as the journal gives it; empty without one and for UNLABELLED.
        text: Never empty.
    """

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Citation:
    """What one PubMed record says about an article.

    Attributes:
        title: Empty if there is none; in brackets if NLM translated it.
        sections: The abstract; none if the record has none.
        year: Of the journal issue; the first one of a range; None if unknown.
        languages: Of the article, not of the abstract, as ISO 639-2 codes.
        mesh: The MeSH descriptors; none as long as the article is not indexed.
        publication_types: For example `Journal Article`, `Retracted Publication`.
        journal: Title of the journal.
        is_retracted: By publication type, or by a link to the retraction notice, which often
            comes first.
    """

    title: str
    sections: tuple[Section, ...]
    year: int | None
    languages: tuple[str, ...]
    mesh: tuple[MeshTerm, ...]
    publication_types: tuple[str, ...]
    journal: str
    is_retracted: bool

    def abstract(self, *, keep_labels: bool) -> str:
        """Join the sections by blanks, as `LABEL: text` or as text alone.

        Source: field AB of the MEDLINE format of PubMed.
        """
        return " ".join(
            f"{section.label}: {section.text}" if keep_labels and section.label else section.text
            for section in self.sections
        )


_EMPTY = Element("Empty")
_EMPHASIS = frozenset({"b", "i", "u"})
_HEADING_WORDS = (
    "aims?|backgrounds?|conclusions?|context|design|discussion|findings|hypothesis|importance"
    "|interpretation|interventions?|introduction|limitations?|main outcome measures?|materials?"
    "|measurements?|methods?|methodology|objectives?|outcomes?|participants|patients|purpose"
    "|rationale|results?|setting|significance|subjects|summary"
)
# A heading of a structured abstract that is written as markup: of these words, or with a colon.
_HEADING = re.compile(
    rf"\s*(?:(?i:(?:{_HEADING_WORDS})(?:(?:,? and |, ?| ?[&/] ?)(?:{_HEADING_WORDS}))*)[:.]?"
    r"|[A-Z][^:.]*[A-Za-z]:)\s*"
)
# What NLM writes for an article without a title, in brackets as titles in translation are.
_NO_TITLE = re.compile(
    r"[\[(\s]*(?:(?:article |original )?title )?(?:not available|unavailable|not given|untitled)"
    r"[\])\s.]*|[\[(\s]*no (?:article )?title(?: available| given)?[\])\s.]*",
    re.IGNORECASE,
)


def read_citation(element: Element) -> Citation:
    """Read a MedlineCitation.

    Inline markup and formulas give their text. OtherAbstract, which may be of another language,
    and CopyrightInformation are no part of the abstract.
    """
    article = _child(element, "Article")
    journal = _child(article, "Journal")
    types = _texts(_child(article, "PublicationTypeList"), "PublicationType")
    return Citation(
        title=_title(_child(article, "ArticleTitle")),
        sections=_sections(_child(article, "Abstract")),
        year=_year(_child(_child(journal, "JournalIssue"), "PubDate")),
        languages=_texts(article, "Language"),
        mesh=tuple(_mesh_term(heading) for heading in _child(element, "MeshHeadingList")),
        publication_types=types,
        journal=_text(_child(journal, "Title")),
        is_retracted="Retracted Publication" in types or _has_retraction(element),
    )


def _child(element: Element, tag: str) -> Element:
    found = element.find(tag)
    return _EMPTY if found is None else found


def _text(element: Element) -> str:
    # split() knows every Unicode space: no-break, thin and hair spaces, line separators.
    return " ".join("".join(_parts(element)).split())


def _parts(element: Element) -> Iterator[str]:
    """Yield the text of an element, with a space where markup alone keeps two words apart.

    Of two emphasized parts without text between, each is a word: `<b>Aims</b><b>Methods</b>`. An
    emphasized heading is a word beside plain text, too: `<b>Aims</b>To study`. All other markup may
    be within a word: `H<sub>2</sub>O`, `<i>p</i>53`, `<i>p</i><sub>0</sub>`.
    """
    before = element.text or ""
    yield before
    touching = False
    for child in element:
        is_emphasis = child.tag in _EMPHASIS
        is_heading = is_emphasis and _HEADING.fullmatch("".join(child.itertext())) is not None
        after = child.tail or ""
        if (touching and is_emphasis) or (is_heading and _ends_a_word(before)):
            yield " "
        yield from _parts(child)
        if is_heading and _begins_a_sentence(after):
            yield " "
        yield after
        before, touching = after, is_emphasis and not after


def _ends_a_word(text: str) -> bool:
    return text[-1:].isalnum() or text.endswith((".", ":", ";", "?", "!"))


def _begins_a_sentence(text: str) -> bool:
    return text[:1].isupper() or text[:1].isdecimal()


def _title(element: Element) -> str:
    """Return a title; empty where a placeholder says that there is none."""
    text = _text(element)
    return "" if _NO_TITLE.fullmatch(text) else text


def _texts(element: Element, tag: str) -> tuple[str, ...]:
    return tuple(text for child in element.findall(tag) if (text := _text(child)))


def _sections(abstract: Element) -> tuple[Section, ...]:
    return tuple(
        Section(_label(part.get("Label", "")), text)
        for part in abstract.findall("AbstractText")
        if (text := _text(part))
    )


def _label(label: str) -> str:
    label = " ".join(label.split()).rstrip(": ")
    return "" if label.upper() in _NO_LABELS else label


def _mesh_term(heading: Element) -> MeshTerm:
    descriptor = _child(heading, "DescriptorName")
    is_major = any(part.get("MajorTopicYN") == "Y" for part in heading)
    return MeshTerm(descriptor.get("UI", ""), _text(descriptor), is_major)


def _year(date: Element) -> int | None:
    return year_of(date.findtext("Year") or date.findtext("MedlineDate") or "")


def _has_retraction(element: Element) -> bool:
    return any(
        link.get("RefType") == "RetractionIn" for link in _child(element, "CommentsCorrectionsList")
    )
