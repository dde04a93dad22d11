"""Reports as HTML."""

import base64
import re
from html.parser import HTMLParser

from biomamba.reporting.report import report_html
from biomamba.reporting.section import Picture, Section, Table

EVIL = '<script>alert("x")</script>&"'
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (900).to_bytes(4) + b"rest"


class Tags(HTMLParser):
    """Collects tags with attributes, and checks that all are closed in order."""

    VOID = ("meta", "img")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def make(text: str) -> str:
    table = Table(name="t", caption=text, header=[text, "n"], rows=[[text, "-1,000"], ["-", "2"]])
    picture = Picture(name="p", caption=text, png=PNG)
    return report_html(text, text, [Section(text, [text, table, picture]), Section("Last", [])])


def parse(html: str) -> list[tuple[str, dict[str, str | None]]]:
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    return tags.found


def test_no_text_is_markup() -> None:
    assert [tag for tag, _ in parse(make(EVIL))] == [tag for tag, _ in parse(make("plain"))]
    assert "<script" not in make(EVIL)


def test_nothing_is_loaded_from_elsewhere() -> None:
    html = make("plain")
    links = [v for _, found in parse(html) for k, v in found.items() if k in ("src", "href")]
    encoded = base64.b64encode(PNG).decode()

    assert links == ["#plain", "#last", f"data:image/png;base64,{encoded}"]
    assert not re.search(r"url\(|@import|https?:", html)
    assert "default-src 'none'" in html


def test_a_picture_is_as_wide_as_its_pixels_allow() -> None:
    assert [found["width"] for tag, found in parse(make("plain")) if tag == "img"] == ["600"]


def test_contents_lead_to_the_sections() -> None:
    tags = parse(make("plain"))
    assert [found["id"] for tag, found in tags if tag == "section"] == ["plain", "last"]


def test_an_abstract_stands_above_the_contents() -> None:
    html = report_html("", "", [Section("Rest", []), Section("In short", ["most"])])
    assert html.index("most") < html.index("<nav") < html.index('id="rest"')
    assert [found["href"] for tag, found in parse(html) if tag == "a"] == ["#rest"]


def test_numbers_stand_right_and_words_left() -> None:
    rows = [["a", "1.5 [1, 2]", "<0.001", "wilson", "-"], ["b", "+2%", "-", "-", "7"]]
    table = Table(name="t", caption="", header=list("abcde"), rows=rows)
    html = report_html("", "", [Section("s", [table])])
    kinds = [found["class"] for tag, found in parse(html) if tag == "th"]

    assert kinds == ["words", "number", "number", "words", "number"]
