"""PubMed files of any size: real records over and over, each time under new PMIDs."""

import gzip
import re
from pathlib import Path
from xml.sax.saxutils import escape

import documents

_REAL_FILE = "pubmed-xml/pubmed20n1015.xml.gz"
_RECORD = re.compile(rb"<PubmedArticle>.*?</PubmedArticle>", re.DOTALL)
_PMID = re.compile(rb'<PMID Version="1">\d+</PMID>')
_PROLOG = b'<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE PubmedArticleSet>\n'
# As in the baseline: most bytes of a record are authors, identifiers, headings and references.
_SYNTHETIC = (
    "<PubmedArticle><MedlineCitation Status='MEDLINE'><PMID Version=\"1\">1</PMID>{dates}"
    "<Article><Journal><Title>Journal</Title><JournalIssue><PubDate><Year>2020</Year></PubDate>"
    "</JournalIssue></Journal><ArticleTitle>{title}</ArticleTitle><Abstract><AbstractText>{text}"
    "</AbstractText></Abstract><AuthorList>{authors}</AuthorList><Language>eng</Language></Article>"
    "</MedlineCitation><PubmedData><ReferenceList>{references}</ReferenceList></PubmedData>"
    "</PubmedArticle>"
)


def records() -> list[bytes]:
    """Return real records, or synthetic ones of their size."""
    folder = documents.real_data()
    if folder is not None:
        return _RECORD.findall(gzip.decompress((folder / _REAL_FILE).read_bytes()))
    author = "<Author><LastName>Name</LastName><Affiliation>Institute, City</Affiliation></Author>"
    reference = "<Reference><Citation>Journal. 2019;1:1-2</Citation></Reference>"
    return [
        _SYNTHETIC.format(
            dates="<DateRevised><Year>2020</Year><Month>1</Month><Day>1</Day></DateRevised>",
            title=escape(text[:90]),
            text=escape(text),
            authors=author * 8,
            references=reference * 70,
        ).encode()
        for text in documents.texts("pubmed", 500)
    ]


def write_file(path: Path, megabytes: int) -> int:
    """Write a file of so many megabytes, compressed as its name says; return its records."""
    templates = records()
    num_bytes, number = 0, 0
    with gzip.open(path, "wb", 6) if path.suffix == ".gz" else path.open("wb") as file:
        file.write(_PROLOG + b"<PubmedArticleSet>\n")
        while num_bytes < megabytes * 1e6:
            pmid = b'<PMID Version="1">%d</PMID>' % (number + 1)
            record = _PMID.sub(pmid, templates[number % len(templates)], count=1)
            num_bytes += file.write(record + b"\n")
            number += 1
        file.write(b"</PubmedArticleSet>\n")
    return number
