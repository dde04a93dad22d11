"""The stream of records: what is read, what is refused, and memory that stays flat."""

import gzip
import re
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest

from biomamba.data.corpora.pubmed_xml import (
    citation_of,
    elements,
    is_record,
    read_citation,
    read_deletions,
    read_key,
)
from biomamba.runtime.errors import DataError

DOCTYPE = '<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD//EN" "https://dtd.invalid/pubmed.dtd">'
WriteXml = Callable[..., Path]


def record(pmid: int, version: int = 1) -> str:
    key = f'<PMID Version="{version}">{pmid}</PMID>'
    return f"<PubmedArticle><MedlineCitation>{key}</MedlineCitation></PubmedArticle>"


@pytest.fixture
def write_xml(tmp_path: Path) -> WriteXml:
    """Return write(body, name=, head=, root=): a file with this body under the root."""

    def _write(
        body: str, name: str = "a.xml.gz", head: str = DOCTYPE, root: str = "PubmedArticleSet"
    ) -> Path:
        content = f'<?xml version="1.0" encoding="utf-8"?>{head}<{root}>{body}</{root}>'.encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return _write


def keys(path: Path) -> list[tuple[int, int] | None]:
    return [read_key(element) for element in elements(path) if is_record(element, path)]


@pytest.mark.parametrize("name", ["a.xml", "a.xml.gz"])
def test_plain_and_compressed_files_are_read(name: str, write_xml: WriteXml) -> None:
    assert keys(write_xml(record(1) + record(2, 3), name)) == [(1, 1), (2, 3)]


def test_the_root_of_older_files_is_read(write_xml: WriteXml) -> None:
    body = "<MedlineCitation><PMID>5</PMID></MedlineCitation>"
    assert keys(write_xml(body, root="MedlineCitationSet", head="")) == [(5, 1)]


def test_a_book_is_a_record_with_its_own_key(write_xml: WriteXml) -> None:
    body = "<PubmedBookArticle><BookDocument><PMID>6</PMID></BookDocument></PubmedBookArticle>"
    assert keys(write_xml(body)) == [(6, 1)]


def test_a_set_without_records_is_empty(write_xml: WriteXml) -> None:
    assert list(elements(write_xml(""))) == []


def test_the_pmid_of_a_linked_article_is_not_the_key(write_xml: WriteXml) -> None:
    link = "<CommentsCorrectionsList><CommentsCorrections><PMID>9</PMID></CommentsCorrections>"
    body = f"<MedlineCitation>{link}</CommentsCorrectionsList></MedlineCitation>"
    assert keys(write_xml(body)) == [None]


@pytest.mark.parametrize(
    "pmid",
    [
        '<PMID Version="x">1</PMID>',
        "<PMID>0</PMID>",
        '<PMID Version="70000">1</PMID>',
        "<PMID>123456789</PMID>",
        f"<PMID>{'9' * 5000}</PMID>",
        "<PMID/>",
    ],
)
def test_a_key_out_of_range_is_none(pmid: str) -> None:
    assert read_key(fromstring(f"<MedlineCitation>{pmid}</MedlineCitation>")) is None


def test_deletions_are_no_records(write_xml: WriteXml) -> None:
    body = record(1) + "<DeleteCitation><PMID>7</PMID>\n<PMID> 8 </PMID></DeleteCitation>"
    path = write_xml(body)
    last = list(elements(path))[-1]

    assert not is_record(last, path)
    assert read_deletions(last, path).tolist() == [7, 8]


def test_a_deletion_that_is_no_pmid_stops(write_xml: WriteXml) -> None:
    path = write_xml("<DeleteCitation><PMID>none</PMID></DeleteCitation>")
    with pytest.raises(DataError, match=r"a\.xml\.gz deletes 'none'"):
        read_deletions(next(elements(path)), path)


def test_an_unknown_element_stops(write_xml: WriteXml) -> None:
    path = write_xml("<Novelty/>")
    with pytest.raises(DataError, match=r"a\.xml\.gz has <Novelty> under its root"):
        is_record(next(elements(path)), path)


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
EXTERNAL = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
PARAMETER = '<!DOCTYPE x [<!ENTITY % a SYSTEM "https://dtd.invalid/x.ent"> %a;]>'
UNPARSED = '<!DOCTYPE x [<!NOTATION n SYSTEM "n"><!ENTITY a SYSTEM "x" NDATA n>]>'
LATE = f"<!-- {'x' * 70_000} --><!DOCTYPE x [<!ENTITY late 'x'>]>"


@pytest.mark.parametrize("head", [BOMB, EXTERNAL, PARAMETER, UNPARSED, LATE])
def test_every_entity_declaration_is_refused(head: str, write_xml: WriteXml) -> None:
    path = write_xml(record(1), head=head)
    with pytest.raises(DataError, match=r"a\.xml\.gz declares or uses the entity"):
        list(elements(path))


def test_an_entity_bomb_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.xml"
    path.write_bytes(f"{BOMB}<PubmedArticleSet/>".encode("utf-16"))
    with pytest.raises(DataError, match=r"wide\.xml declares or uses the entity 'a'"):
        list(elements(path))


def test_an_undeclared_entity_stops(write_xml: WriteXml) -> None:
    path = write_xml("<MedlineCitation>a&nbsp;b</MedlineCitation>")
    with pytest.raises(DataError, match=r"a\.xml\.gz.*undefined entity"):
        list(elements(path))


@pytest.mark.parametrize("name", ["nbsp", "late"])
def test_an_undeclared_entity_in_an_attribute_stops(name: str, write_xml: WriteXml) -> None:
    """A parser that knows of the document type would read `a&nbsp;b` as `ab`."""
    path = write_xml(f'<MedlineCitation Owner="a&{name};b"/>')
    with pytest.raises(DataError, match=r"a\.xml\.gz.*undefined entity"):
        list(elements(path))


@pytest.mark.parametrize("size", range(16_384 - 60, 16_384 + 60, 7))
def test_the_root_may_lie_across_two_blocks(size: int, tmp_path: Path) -> None:
    head = f"<!--{'x' * (size - len(DOCTYPE))}-->{DOCTYPE}"
    path = tmp_path / "a.xml"
    path.write_text(f'{head}<PubmedArticleSet a="1">{record(1)}{record(2)}</PubmedArticleSet>')
    assert keys(path) == [(1, 1), (2, 1)]


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1", "us-ascii"])
def test_the_declared_encoding_holds_behind_the_root(encoding: str, tmp_path: Path) -> None:
    letter = "e" if encoding == "us-ascii" else "\u00e9"
    text = f'<?xml version="1.0" encoding="{encoding}"?><MedlineCitationSet><MedlineCitation>'
    path = tmp_path / "a.xml"
    path.write_bytes(f"{text}{letter}</MedlineCitation></MedlineCitationSet>".encode(encoding))
    assert [element.text for element in elements(path)] == [letter]


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(f"\ufeff<PubmedArticleSet>{record(7)}</PubmedArticleSet>".encode())
    assert keys(path) == [(7, 1)]


def test_a_start_without_end_is_refused(write_xml: WriteXml) -> None:
    path = write_xml(record(1), head=f"<!-- {'x' * (1 << 20)} -->")
    with pytest.raises(DataError, match=r"a\.xml\.gz does not start as PubMed XML"):
        list(elements(path))


HUGE = 1 << 18
OVERSIZED = {
    "text": f"<PubmedArticle>{'x' * HUGE}</PubmedArticle>",
    "elements": f"<PubmedArticle>{'<a/>' * (HUGE // 4)}</PubmedArticle>",
    "depth": f"<PubmedArticle>{'<a>' * (HUGE // 3)}{'</a>' * (HUGE // 3)}</PubmedArticle>",
    "attribute": f'<PubmedArticle a="{"x" * HUGE}"/>',
    "comment": f"<PubmedArticle/><!-- {'x' * HUGE} -->",
    "blanks": " " * HUGE,
    "never closed": f"<PubmedArticle><a>{'x' * HUGE}",
}


@pytest.mark.parametrize("kind", OVERSIZED)
def test_a_record_beyond_the_limit_stops(
    kind: str, write_xml: WriteXml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomamba.data.corpora.pubmed_xml.MAX_RECORD_BYTES", HUGE // 4)
    path = write_xml(record(1) + record(2) + OVERSIZED[kind])
    with pytest.raises(DataError, match=r"record [234] of .*a\.xml\.gz has more than 65536 bytes"):
        list(elements(path))


def test_the_limit_is_one_of_a_record_and_not_of_a_file(
    write_xml: WriteXml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomamba.data.corpora.pubmed_xml.MAX_RECORD_BYTES", 1 << 15)
    path = write_xml("".join(record(pmid) for pmid in range(1, 10_000)))
    assert len(keys(path)) == 9_999


def test_predefined_entities_are_text(write_xml: WriteXml) -> None:
    element = next(elements(write_xml("<MedlineCitation>&lt;&amp;&#233;</MedlineCitation>")))
    assert element.text == "<&\u00e9"


def test_another_root_is_refused(write_xml: WriteXml) -> None:
    path = write_xml("<channel/>", root="rss", head="")
    with pytest.raises(DataError, match=r"a\.xml\.gz is not PubMed XML: its root is <rss>"):
        list(elements(path))


def damaged(content: bytes, kind: str) -> bytes:
    middle = len(content) // 2
    flipped = bytes([content[middle] ^ 16])
    return {
        "empty": b"",
        "cut": content[:middle],
        "flipped": content[:middle] + flipped + content[middle + 1 :],
        "flipped block type": content[:10] + bytes([content[10] | 6]) + content[11:],
        "not gzip": b"<PubmedArticleSet/>",
        "junk after": content + b"junk",
    }[kind]


@pytest.mark.parametrize(
    "kind", ["empty", "cut", "flipped", "flipped block type", "not gzip", "junk after"]
)
def test_a_damaged_compressed_file_is_named(kind: str, write_xml: WriteXml) -> None:
    path = write_xml("".join(record(pmid) for pmid in range(1, 2000)))
    path.write_bytes(damaged(path.read_bytes(), kind))
    with pytest.raises(DataError, match=r"cannot read .*a\.xml\.gz to its end"):
        list(elements(path))


@pytest.mark.parametrize("kind", ["empty", "cut", "junk after"])
def test_a_damaged_plain_file_is_named(kind: str, write_xml: WriteXml) -> None:
    path = write_xml("".join(record(pmid) for pmid in range(1, 2000)), "a.xml")
    path.write_bytes(damaged(path.read_bytes(), kind))
    with pytest.raises(DataError, match=r"cannot read .*a\.xml to its end"):
        list(elements(path))


def test_a_file_cut_between_two_records_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<PubmedArticleSet>" + record(1) + record(2))
    with pytest.raises(DataError, match=r"a\.xml to its end"):
        list(elements(path))


@pytest.mark.parametrize("encoding", ["klingon", "shift_jis", "utf-16", "ascii"])
def test_a_file_in_another_encoding_than_it_says_is_named(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    path.write_bytes(f"{head}<PubmedArticleSet>\u00e9</PubmedArticleSet>".encode())
    with pytest.raises(DataError, match=r"a\.xml to its end"):
        list(elements(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.xml"):
        list(elements(tmp_path / "none.xml"))


def peak_bytes(path: Path) -> int:
    tracemalloc.start()
    try:
        for _ in elements(path):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file(write_xml: WriteXml) -> None:
    small = write_xml("".join(record(pmid) for pmid in range(1, 1_000)), "small.xml")
    large = write_xml("".join(record(pmid) for pmid in range(1, 16_000)), "large.xml")

    assert peak_bytes(large) < 1.5 * peak_bytes(small)


def raw_text(path: Path) -> str:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()


def has_text(abstract: str) -> bool:
    parts = re.findall(r"<AbstractText\b[^>]*(?<!/)>(.*?)</AbstractText>", abstract, re.DOTALL)
    return any(re.sub(r"<[^>]*>", "", part).strip() for part in parts)


def num_abstracts(found: list[Element], path: Path) -> tuple[int, int]:
    """Return how many records have an abstract, and one that holds text."""
    citations = [citation_of(element) for element in found if is_record(element, path)]
    known = [citation for citation in citations if citation is not None]
    with_text = sum(bool(read_citation(citation).sections) for citation in known)
    return sum(citation.find("Article/Abstract") is not None for citation in known), with_text


def is_deletion(element: Element) -> bool:
    return element.tag == "DeleteCitation"


def test_real_files_hold_what_a_search_of_their_text_finds(real_data: Path) -> None:
    """The second way: regular expressions over the raw text, no parser."""
    files = sorted((real_data / "pubmed-xml").glob("*.xml*"))
    files = [path for path in files if path.suffix != ".md5" and "no_pubmed" not in path.name]
    total: Counter[str] = Counter()
    for path in files:
        text = raw_text(path)
        abstracts = re.findall(r"<Abstract>(.*?)</Abstract>", text, re.DOTALL)
        with_text = sum(has_text(block) for block in abstracts)
        heads = re.findall(r"<MedlineCitation\b[^>]*>\s*<PMID(?: Version=\"(\d+)\")?>(\d+)", text)
        blocks = re.findall(r"<DeleteCitation>(.*?)</DeleteCitation>", text, re.DOTALL)
        deleted = [int(pmid) for block in blocks for pmid in re.findall(r">(\d+)</PMID>", block)]
        found = list(elements(path))
        gone = [read_deletions(element, path) for element in found if is_deletion(element)]

        assert keys(path) == [(int(pmid), int(version or 1)) for version, pmid in heads], path.name
        assert [int(pmid) for part in gone for pmid in part] == deleted, path.name
        assert num_abstracts(found, path) == (len(abstracts), with_text), path.name
        total.update(abstracts=len(abstracts), empty_abstracts=len(abstracts) - with_text)
        total.update(citations=len(heads), deletions=len(deleted), files=1)
        total.update(later_versions=sum(version not in ("", "1") for version, _ in heads))

    assert total["files"] >= 16
    assert total["later_versions"] >= 5
    assert total["citations"] >= 1_499
    assert total["abstracts"] >= 1_346
    assert total["deletions"] >= 345


def test_a_real_feed_is_refused(real_data: Path) -> None:
    path = real_data / "pubmed-xml" / "ncbiutils-no_pubmedarticleset.xml"
    with pytest.raises(DataError, match="its root is <rss>"):
        list(elements(path))
