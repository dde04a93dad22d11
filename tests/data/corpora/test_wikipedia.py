"""Wikipedia articles."""

from collections.abc import Callable
from pathlib import Path

from biomamba.data.corpora.table import Wikipedia
from biomamba.data.document import Document, Reject
from biomamba.data.rows import LocalRows


def read(corpus: Wikipedia) -> list[Document | Reject]:
    return [row for shard in corpus.shards() for row in corpus.documents(shard)]


def test_the_title_is_the_first_line(rows_of: Callable[..., LocalRows]) -> None:
    row = {"id": "12", "url": "https://a.example", "title": "Issel", "text": "A river. " * 20}
    expected = Document("Issel\n\n" + ("A river. " * 20).strip(), "12", "wikipedia")
    assert read(Wikipedia(rows_of([row]), "none")) == [expected]


def test_stubs_are_left_out(rows_of: Callable[..., LocalRows]) -> None:
    row = {"id": "12", "title": "Issel", "text": "A river."}
    expected = Reject("shorter than 100 characters", "12")
    assert read(Wikipedia(rows_of([row]), "none")) == [expected]


def test_real_articles(real_data: Path) -> None:
    rows = LocalRows([str(real_data / "wikipedia-extract" / "articles.jsonl.gz")])
    documents = read(Wikipedia(rows, "none", min_chars=1))
    assert len(documents) == 1_097
    assert isinstance(documents[0], Document)
    assert documents[0].text.startswith("2007 European Parliament election in Romania\n\nRomania")
