"""PubMed abstracts in the layouts in use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.corpora.table import PubMedAbstracts
from biomamba.data.document import Document, Reject, text_id
from biomamba.data.rows import LocalRows

Rows = Callable[..., LocalRows]
TEXT = "Title.\n\nAbstract."


def read(corpus: PubMedAbstracts) -> list[Document | Reject]:
    return [row for shard in corpus.shards() for row in corpus.documents(shard)]


def test_local_layout(rows_of: Rows) -> None:
    rows = rows_of([{"pmid": "17", "title": "Title.", "abstract": "Abstract."}])
    assert read(PubMedAbstracts(rows, "none")) == [Document(TEXT, "17", "pubmed")]


@pytest.mark.parametrize(("column", "value"), [("PMID", 17), ("id", "PMID:17"), ("id", "pmid: 17")])
def test_one_article_has_one_key_in_every_layout(column: str, value: Any, rows_of: Rows) -> None:
    rows = rows_of([{column: value, "title": "Title.", "content": "Abstract."}])
    corpus = PubMedAbstracts(rows, "none", abstract_column="content", id_column=column)
    assert read(corpus) == [Document(TEXT, "17", "pubmed")]


def test_layout_without_an_id(rows_of: Rows) -> None:
    rows = rows_of([{"title": "Title.", "content": "Abstract."}])
    corpus = PubMedAbstracts(rows, "none", abstract_column="content", id_column=None)
    assert read(corpus) == [Document(TEXT, text_id(TEXT), "pubmed")]


@pytest.mark.parametrize("abstract", [None, "", " "])
def test_a_row_without_abstract_is_left_out(abstract: str | None, rows_of: Rows) -> None:
    rows = rows_of([{"pmid": "17", "title": "Title.", "abstract": abstract}])
    assert read(PubMedAbstracts(rows, "none")) == [Reject("empty abstract", "17")]


def test_a_row_without_title_is_its_abstract(rows_of: Rows) -> None:
    rows = rows_of([{"pmid": "17", "title": None, "abstract": "Abstract."}])
    assert read(PubMedAbstracts(rows, "none")) == [Document("Abstract.", "17", "pubmed")]


def test_real_abstracts(real_data: Path) -> None:
    file = real_data / "pubmed-abstracts-cohen2006" / "abstracts.jsonl.gz"
    documents = read(PubMedAbstracts(LocalRows([str(file)]), "none"))
    assert len(documents) == 12_174
    assert all(isinstance(document, Document) for document in documents)
    assert len({document.id for document in documents}) == 12_174


def test_real_years(real_data: Path) -> None:
    file = real_data / "pubmed-abstracts-cohen2006" / "abstracts.jsonl.gz"
    documents = read(PubMedAbstracts(LocalRows([str(file)]), "none", year_column="year"))
    years = {
        row.facts.year for row in documents if isinstance(row, Document) and row.facts is not None
    }
    assert years == set(range(1991, 2004))
