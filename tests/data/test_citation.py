"""The fields of a citation: markup, labels, dates and what must stay out."""

import gzip
import re
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from biomamba.data.corpora.pubmed_xml import (
    Citation,
    Section,
    citation_of,
    elements,
    is_record,
    read_citation,
)
from biomamba.data.document import MeshTerm


def read(inside: str = "", after: str = "") -> Citation:
    """Read a citation with this inside its Article and this after it."""
    text = f"<MedlineCitation><PMID>1</PMID><Article>{inside}</Article>{after}</MedlineCitation>"
    return read_citation(fromstring(text))


def abstract_of(inside: str, *, keep_labels: bool = True) -> str:
    return read(f"<Abstract>{inside}</Abstract>").abstract(keep_labels=keep_labels)


def year_of(date: str) -> int | None:
    issue = f"<JournalIssue><PubDate>{date}</PubDate></JournalIssue>"
    return read(f"<Journal>{issue}</Journal>").year


def test_a_stub_has_empty_fields() -> None:
    element = fromstring("<MedlineCitation><PMID>1</PMID></MedlineCitation>")
    assert read_citation(element) == Citation("", (), None, (), (), (), "", is_retracted=False)


def test_text_behind_inline_markup_is_kept() -> None:
    text = "<AbstractText>CO<sub>2</sub> and <i>E. <b>coli</b></i> grew &lt; 5%.</AbstractText>"
    assert abstract_of(text) == "CO2 and E. coli grew < 5%."
    assert read("<ArticleTitle>The <i>p53</i> gene.</ArticleTitle>").title == "The p53 gene."


def test_formulas_are_kept_as_text() -> None:
    formula = (
        '<mml:math xmlns:mml="http://www.w3.org/1998/Math/MathML">\n <mml:mi>x</mml:mi>\n'
        " <mml:mo>=</mml:mo> <mml:mn>2</mml:mn>\n</mml:math>"
    )
    assert abstract_of(f"<AbstractText>If {formula} then.</AbstractText>") == "If x = 2 then."


def test_every_kind_of_space_becomes_a_blank() -> None:
    spaces = "\u00a0 \u2009\u202f\u200a\u2003\n\t\u2028"
    assert abstract_of(f"<AbstractText> a{spaces}b </AbstractText>") == "a b"


SECTIONS = (
    '<AbstractText Label="BACKGROUND &amp; AIMS" NlmCategory="BACKGROUND">One.</AbstractText>'
    '<AbstractText Label="Results:">Two.</AbstractText>'
    '<AbstractText Label="UNLABELLED">Three.</AbstractText>'
    "<AbstractText/>"
)


def test_labels_are_kept_or_dropped() -> None:
    assert abstract_of(SECTIONS) == "BACKGROUND & AIMS: One. Results: Two. Three."
    assert abstract_of(SECTIONS, keep_labels=False) == "One. Two. Three."


def test_empty_sections_are_none() -> None:
    assert read("<Abstract><AbstractText> <i/> </AbstractText></Abstract>").sections == ()


def test_other_abstracts_and_copyright_stay_out() -> None:
    own = (
        "<Abstract><AbstractText>Own.</AbstractText>"
        "<CopyrightInformation>Copyright 1999 Nobody.</CopyrightInformation></Abstract>"
    )
    other = (
        '<OtherAbstract Type="Publisher" Language="fre"><AbstractText>Autre.</AbstractText>'
        "<CopyrightInformation>C</CopyrightInformation></OtherAbstract>"
    )
    assert read(own, other).sections == (Section("", "Own."),)
    assert read("", other).sections == ()


@pytest.mark.parametrize(
    ("date", "year"),
    [
        ("<Year>1999</Year><Month>Jan</Month>", 1999),
        ("<MedlineDate>1998 Dec-1999 Jan</MedlineDate>", 1998),
        ("<MedlineDate>Winter 1976</MedlineDate>", 1976),
        ("<MedlineDate>1976-1977</MedlineDate>", 1976),
        ("<Season>Spring</Season>", None),
        ("<MedlineDate>No. 12345</MedlineDate>", None),
        ("", None),
    ],
)
def test_year(date: str, year: int | None) -> None:
    assert year_of(date) == year


def test_lists_and_journal() -> None:
    citation = read(
        "<Journal><Title>Journal of  Examples</Title></Journal>"
        "<Language>eng</Language><Language>fre</Language>"
        "<PublicationTypeList><PublicationType>Review</PublicationType></PublicationTypeList>",
        '<MeshHeadingList><MeshHeading><DescriptorName UI="D051379" MajorTopicYN="N">'
        'Mice</DescriptorName><QualifierName UI="Q000097" MajorTopicYN="Y">blood</QualifierName>'
        "</MeshHeading><MeshHeading><DescriptorName>Aged</DescriptorName></MeshHeading>"
        "</MeshHeadingList>",
    )
    assert citation.languages == ("eng", "fre")
    assert citation.publication_types == ("Review",)
    # A descriptor is major with one of its qualifiers; files of long ago have no identifiers.
    assert citation.mesh == (MeshTerm("D051379", "Mice", is_major=True), MeshTerm("", "Aged"))
    assert citation.journal == "Journal of Examples"
    assert not citation.is_retracted


def test_retraction_is_seen_by_type_and_by_link() -> None:
    kind = "<PublicationTypeList><PublicationType>{}</PublicationType></PublicationTypeList>"
    link = '<CommentsCorrectionsList><CommentsCorrections RefType="{}"/></CommentsCorrectionsList>'

    assert read(kind.format("Retracted Publication")).is_retracted
    assert read("", link.format("RetractionIn")).is_retracted
    assert not read(kind.format("Retraction Notice"), link.format("RetractionOf")).is_retracted


def test_real_abstracts_are_those_a_search_of_the_text_finds(real_data: Path) -> None:
    """The second way: regular expressions over the raw text, no parser."""
    files = sorted((real_data / "pubmed-xml").glob("*.xml*"))
    files = [path for path in files if path.suffix != ".md5" and "no_pubmed" not in path.name]
    for path in files:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        bodies = re.findall(r"<MedlineCitation\b.*?</MedlineCitation>", text, re.DOTALL)
        expected = [has_abstract(body) for body in bodies]
        citations = [citation_of(element) for element in elements(path) if is_record(element, path)]
        found = [bool(read_citation(item).sections) for item in citations if item is not None]

        assert found == expected, path.name


def has_abstract(body: str) -> bool:
    own = re.search(r"<Abstract>(.*?)</Abstract>", body, re.DOTALL)
    parts = (
        re.findall(r"<AbstractText[^>/]*>(.*?)</AbstractText>", own[1], re.DOTALL) if own else []
    )
    return any(re.sub(r"<[^>]*>", "", part).strip() for part in parts)


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        ("<b>Aims</b><b>Methods</b>", "Aims Methods"),
        ("<b>A</b> <i>B</i><u>C</u>", "A B C"),
        ("H<sub>2</sub>O", "H2O"),
        ("<i>p</i><sub>0</sub>", "p0"),
        ("<i>in vi</i>tro", "in vitro"),
        ("<b>A<i>B</i></b><b>C</b>", "AB C"),
    ],
)
def test_emphasized_parts_that_touch_are_words(inside: str, text: str) -> None:
    assert abstract_of(f"<AbstractText>{inside}</AbstractText>") == text


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        ("<b>Aims</b>To study.<b>Methods</b>We", "Aims To study. Methods We"),
        ("<b>Conclusions:</b>There is", "Conclusions: There is"),
        ("end.<b>Materials and Methods:</b>12 mice", "end. Materials and Methods: 12 mice"),
        ("<i>RESULTS</i>A total", "RESULTS A total"),
        ("<b>Trial registration:</b>NCT01", "Trial registration: NCT01"),
        ("<b>Aims</b>: to", "Aims: to"),
        ("(<b>Aims</b>) <b>Results</b> of", "(Aims) Results of"),
        ("<i>p</i>53 and CO<sub>2</sub>-rich", "p53 and CO2-rich"),
        ("H<sub>2</sub>O, IL-1<i>β</i>", "H2O, IL-1β"),
        ("<b>P</b>rospective <b>Phos</b>Net", "Prospective PhosNet"),
        ("1<i>H</i>-indazole KO<i>t</i>-Bu <i>glm</i>S", "1H-indazole KOt-Bu glmS"),
        ("<b>Method</b>ology, <i>Design</i>er", "Methodology, Designer"),
        ("<b>1:</b>2 and <sup>Results</sup>A", "1:2 and ResultsA"),
    ],
)
def test_an_emphasized_heading_is_a_word_beside_plain_text(inside: str, text: str) -> None:
    assert abstract_of(f"<AbstractText>{inside}</AbstractText>") == text


@pytest.mark.parametrize(
    ("title", "kept"),
    [
        ("[Not Available].", ""),
        ("Not available.", ""),
        ("[No title available].", ""),
        ("Untitled.", ""),
        ("[Title not available]", ""),
        ("Not available in all hospitals.", "Not available in all hospitals."),
        ("[Zur Frage der Narkose].", "[Zur Frage der Narkose]."),
    ],
)
def test_a_placeholder_is_no_title(title: str, kept: str) -> None:
    assert read(f"<ArticleTitle>{title}</ArticleTitle>").title == kept
