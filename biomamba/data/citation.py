"""The fields of one PubMed citation, as text without markup."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from biomamba.data.document_facts import MeshTerm, year_of

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
    stand within a word: `H<sub>2</sub>O`, `<i>p</i>53`, `<i>p</i><sub>0</sub>`.
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
