"""C4 pages."""

from collections.abc import Callable
from pathlib import Path

from biomamba.data.corpora.table import C4, ColumnCorpus
from biomamba.data.document import Document, Reject
from biomamba.data.rows import LocalRows


def read(corpus: ColumnCorpus) -> list[Document | Reject]:
    return [row for shard in corpus.shards() for row in corpus.documents(shard)]


def test_a_page_is_its_text_under_its_url(rows_of: Callable[..., LocalRows]) -> None:
    row = {"text": "x" * 100, "url": "https://a.example", "timestamp": "2019-04-25T12:57:54Z"}
    assert read(C4(rows_of([row]), "none")) == [Document("x" * 100, "https://a.example", "web")]


def test_a_page_below_a_hundred_characters_is_left_out(rows_of: Callable[..., LocalRows]) -> None:
    (reject,) = read(C4(rows_of([{"text": "x" * 99, "url": "u"}]), "none"))
    assert reject == Reject("shorter than 100 characters", "u")


def test_real_pages_in_both_layouts(real_data: Path) -> None:
    folder = real_data / "c4"
    files = [str(folder / "c4_full_200.jsonl.gz"), str(folder / "c4-sample.*.json.gz")]
    documents = read(C4(LocalRows(files), "none", id_column=None))
    assert len([d for d in documents if isinstance(d, Document)]) == 230
    with_url = read(C4(LocalRows(files[1:]), "none"))
    assert all(d.id.startswith("http") for d in with_url if isinstance(d, Document) and d.id)


def test_real_cut_pages_are_joined_without_a_seam(real_data: Path) -> None:
    rows = LocalRows([str(real_data / "c4" / "c4_prefix_completion_1480.jsonl.gz")])
    corpus = ColumnCorpus(rows, "web", "none", ["prefix", "gold_completion"], separator="")
    documents = read(corpus)
    assert len(documents) == 1_480
    assert isinstance(documents[0], Document)
    assert "applied biolog" in documents[0].text


def test_real_openwebtext(real_data: Path) -> None:
    rows = LocalRows([str(real_data / "openwebtext-1000" / "openwebtext-1000.jsonl.gz")])
    documents = read(ColumnCorpus(rows, "web", "none", ["text"], id_column="id"))
    assert [document.id for document in documents] == [str(i) for i in range(1_000)]
