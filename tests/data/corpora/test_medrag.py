"""MedRAG's abstracts: the damage built again by a reader of the same kind, and fixed."""

import gzip
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from biomamba.data.corpora.pubmed_xml import (
    citation_of,
    elements,
    is_record,
    read_citation,
    read_key,
)
from biomamba.data.corpora.table import MedRag, mend_markup
from biomamba.data.document import Document
from biomamba.data.rows import LocalRows

TITLE, ABSTRACT = "<ArticleTitle>", "<AbstractText"
Fields = tuple[str, str]  # title and abstract

INTACT = [
    "p < 0.05 and q > 0.1",
    "a<b",
    "if a<b and u<i then sub<sup",
    "<0.001; <or= 5; </= 140/90",
    "AT&T, R&D; &c.; &ltx",
    "x <i y, x </= y",
    "x </b y, then a<b",
    "1 < i < n, 2 < b < m",
]
MENDED = [
    ("10<sup-5</sup M", "10-5 M"),
    ("(S<sup0</sup ) and W<subMAX</sub test", "(S0 ) and WMAX test"),
    ("<ien <bboth</b vitro</i", "en both vitro"),
    ("<i>In vitro</i> study", "In vitro study"),
    ("p &lt; 0.05 &amp; q &gt; 1", "p < 0.05 & q > 1"),
    ("&amp;lt;", "&lt;"),
    ("&lt;i&gt;x&lt;/i&gt;", "<i>x</i>"),
    ("&#233;&#xE9;", "\u00e9\u00e9"),
    ("a&lt;b and <bc</b", "a<b and c"),
    ("a<b and <bc</b", "a<b and c"),
    (
        '<mml:math xmlns:mml="http://www.w3.org/1998/Math/MathML"<mml:mix</mml:mi'
        '<mml:mspace width="1em"/<mml:mo/</mml:mo<mml:mover<mml:mnover</mml:mn</mml:mover'
        "</mml:math!",
        "x/over!",
    ),
    ("two  spaces\u00a0here ", "two spaces here"),
]


@pytest.mark.parametrize("text", INTACT)
def test_intact_text_stays(text: str) -> None:
    assert mend_markup(text) == text


@pytest.mark.parametrize(("damaged", "text"), MENDED)
def test_remains_of_markup_are_mended(damaged: str, text: str) -> None:
    assert mend_markup(damaged) == text


def test_any_markup_that_lost_its_brackets_is_mended() -> None:
    """Write random nested markup around random words, then damage it as the reader does."""
    generator = random.Random(0)
    words = ["p", "&lt;", "0.05", "n", "sub", "i", "b", "&amp;", "b-cell", "MAX"]
    for _ in range(2_000):
        marked = plain = ""
        opened: list[str] = []
        for _ in range(generator.randrange(1, 14)):
            choice = generator.random()
            if choice < 0.3:
                opened.append(generator.choice(["sup", "sub", "i", "b", "u"]))
                marked += f"<{opened[-1]}>"
            elif choice < 0.6 and opened:
                marked += f"</{opened.pop()}>"
            else:
                word = generator.choice(words)
                marked, plain = marked + word, plain + word
        marked += "".join(f"</{tag}>" for tag in reversed(opened))
        want = plain.replace("&lt;", "<").replace("&amp;", "&")
        assert mend_markup(marked) == want
        assert mend_markup(marked.replace(">", "")) == want


def test_random_text_without_closing_tags_stays() -> None:
    generator = random.Random(1)
    for _ in range(2_000):
        pieces = generator.choices(["<", ">", "i", "b", "sub", "/", "0.05", "=", "&", "x;"], k=20)
        text = re.sub(r"</(?=[ibsu])", "<", "".join(pieces))
        assert mend_markup(text) == text


@pytest.mark.parametrize("piece", ["<i", "</u", '<mml:mi a="', "&lt", "<sup</sub"])
def test_hostile_text_takes_linear_time(piece: str) -> None:
    assert len(mend_markup(piece * 400_000)) <= len(piece) * 400_000


def test_a_row_becomes_a_document_under_its_pmid(rows_of: Callable[..., LocalRows]) -> None:
    row = {
        "PMID": 21,
        "id": "pubmed23n0001_0",
        "title": "<i>E. coli</i>",
        "content": "10<sup5</sup",
    }
    corpus = MedRag(rows_of([row]), "none")
    (document,) = corpus.documents(corpus.shards()[0])
    assert document == Document("E. coli\n\n105", "21", "pubmed")
    assert corpus.settings()["mending_version"] == 1


def line_based(text: str) -> Iterator[tuple[str, Fields]]:
    """Read PubMed XML by its lines, as MedRAG does: every `>` goes, tags and entities stay."""
    pmid = title = abstract = ""
    for line in map(str.strip, text.split("\n")):
        if line == "<Article>" or line.startswith("<Article "):
            title = abstract = ""
        elif line == "</Article>" and abstract.strip():
            yield pmid, (title, abstract)
        elif line.startswith("<PMID"):
            pmid = line.removesuffix("</PMID>").rsplit(">", 1)[-1]
        elif line.startswith(TITLE):
            title = line[len(TITLE) : -len("</ArticleTitle>")]
        elif line.startswith(ABSTRACT):
            inside = line[len(ABSTRACT) : -len("</AbstractText>")].partition(">")[2]
            abstract += (" " if abstract else "") + inside.replace(">", "")


def parsed(path: Path) -> Iterator[tuple[str, Fields]]:
    for element in elements(path):
        key, citation = read_key(element), citation_of(element)
        if is_record(element, path) and key is not None and citation is not None:
            fields = read_citation(citation)
            yield str(key[0]), (fields.title, fields.abstract(keep_labels=False))


def test_real_records_are_those_of_a_true_parse(real_data: Path) -> None:
    """Of 1,235 records 525 are whole before and 1,232 after; the others lost lines of text."""
    num_rows = num_whole = 0
    still_damaged = []
    for path in sorted((real_data / "pubmed-xml").glob("*.xml*")):
        if path.suffix == ".md5" or "no_pubmed" in path.name:
            continue
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        true: dict[str, list[Fields]] = defaultdict(list)
        for pmid, fields in parsed(path):
            true[pmid].append(fields)
        for pmid, (title, abstract) in line_based(text):
            want = true[pmid].pop(0)
            num_rows += 1
            num_whole += (title, abstract) == want
            if (mend_markup(title), mend_markup(abstract)) != want:
                still_damaged.append((pmid, abstract, want[1]))

    assert (num_rows, num_whole, len(still_damaged)) == (1_235, 525, 3)
    # These abstracts spread over several lines, of which the reader keeps the first of each part.
    assert {pmid for pmid, _, _ in still_damaged} == {"30158200", "29768149"}
    assert all(len(mend_markup(abstract)) < len(want) for _, abstract, want in still_damaged)


def test_real_intact_abstracts_stay(real_data: Path) -> None:
    """12,174 abstracts with 2,000 `<`; 37 fields have runs of spaces, which become one."""
    path = real_data / "pubmed-abstracts-cohen2006" / "abstracts.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    fields = [row[name] for row in rows for name in ("title", "abstract")]
    changed = [text for text in fields if mend_markup(text) != text]

    assert len(rows) == 12_174
    assert len(changed) == 37
    assert all(mend_markup(text) == " ".join(text.split()) for text in changed)
