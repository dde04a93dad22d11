"""WikiText articles from lines."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from biomamba.data.corpora.table import WikiText
from biomamba.data.document import Document, Reject
from biomamba.data.rows import LocalRows

LINES = ["", " = One = \n", "", " First . \n", " = = Part = = \n", "", " Second . \n", ""]


def read(rows: LocalRows) -> list[Document | Reject]:
    corpus = WikiText(rows, "none")
    return [row for shard in corpus.shards() for row in corpus.documents(shard)]


@pytest.fixture
def articles(
    rows_of: Callable[..., LocalRows],
) -> Callable[[Sequence[str]], list[Document | Reject]]:
    """Return articles(lines): the documents of a file with a row per line."""
    return lambda lines: read(rows_of([{"text": line} for line in lines]))


def test_an_article_keeps_its_sections(
    articles: Callable[[Sequence[str]], list[Document | Reject]],
) -> None:
    text = "= One = \n First . \n = = Part = = \n Second ."
    assert articles(LINES) == [Document(text, "One", "wikipedia")]


def test_every_title_begins_an_article(
    articles: Callable[[Sequence[str]], list[Document | Reject]],
) -> None:
    ids = [row.id for row in articles([*LINES, " = Two ( 2011 ) = \n", "", " Text . \n"])]
    assert ids == ["One", "Two ( 2011 )"]


def test_a_formula_is_no_title(
    articles: Callable[[Sequence[str]], list[Document | Reject]],
) -> None:
    lines = [*LINES[:4], " = 1 rad / s and a nominal impedance k = \n", " 1 Ohm . \n"]
    assert [row.id for row in articles(lines)] == ["One"]


def test_an_article_without_text_is_left_out(
    articles: Callable[[Sequence[str]], list[Document | Reject]],
) -> None:
    (reject, document) = articles(["", " = Empty = \n", "", *LINES])
    assert reject == Reject("empty article", "Empty")
    assert isinstance(document, Document)


def test_text_before_the_first_title_is_counted(
    articles: Callable[[Sequence[str]], list[Document | Reject]],
) -> None:
    (reject, _) = articles([" stray \n", *LINES])
    assert reject == Reject("text before the first heading", "raw.jsonl row 1")


def test_a_row_without_text_is_damage(rows_of: Callable[..., LocalRows]) -> None:
    (reject,) = read(rows_of([{"line": "x"}]))
    assert reject == Reject("no column 'text'", "raw.jsonl row 1", is_damaged=True)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_real_splits_have_sixty_articles(split: str, real_data: Path) -> None:
    rows = LocalRows([str(real_data / "wikitext-2-raw" / f"{split}.jsonl")])
    documents = read(rows)
    assert len(documents) == 60
    assert all(isinstance(document, Document) for document in documents)
    # Nothing but the blank rows and the blanks at the ends of an article is lost.
    lines = [row["text"] for row in rows.shards()[0].rows() if isinstance(row, dict)]
    kept = "".join(document.text for document in documents if isinstance(document, Document))
    assert "".join(kept.split()) == "".join("".join(lines).split())
