"""PubMed XML to documents: what is, what is left out and why."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biomamba.data.corpora.medline import MedlineCorpus, MedlineShard
from biomamba.data.document import Document, DocumentFacts, MeshTerm, Reject
from biomamba.data.nlm_download import LocalFiles
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import ConfigError, DataError

POLICY = StorePolicy(val_permille=0, test_permille=0)
Row = Document | Reject
Make = Callable[..., MedlineCorpus]


def record(
    pmid: int,
    title: str = "Title.",
    abstract: str = "<AbstractText>Text.</AbstractText>",
    version: int = 1,
    year: str = "<Year>2000</Year>",
    language: str = "eng",
    kind: str = "Journal Article",
) -> str:
    date = f"<Journal><JournalIssue><PubDate>{year}</PubDate></JournalIssue></Journal>"
    types = f"<PublicationTypeList><PublicationType>{kind}</PublicationType></PublicationTypeList>"
    article = (
        f"{date}<ArticleTitle>{title}</ArticleTitle><Abstract>{abstract}</Abstract>"
        f"<Language>{language}</Language>{types}"
    )
    key = f'<PMID Version="{version}">{pmid}</PMID>'
    citation = f"<MedlineCitation>{key}<Article>{article}</Article></MedlineCitation>"
    return f"<PubmedArticle>{citation}</PubmedArticle>"


def deletion(*pmids: int) -> str:
    return f"<DeleteCitation>{''.join(f'<PMID>{pmid}</PMID>' for pmid in pmids)}</DeleteCitation>"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return make(*bodies, **options): a corpus of files n1.xml, n2.xml, ... with these bodies."""

    def _make(*bodies: str, **options: Any) -> MedlineCorpus:
        for number, body in enumerate(bodies, start=1):
            path = tmp_path / f"n{number}.xml"
            path.write_text(f"<PubmedArticleSet>{body}</PubmedArticleSet>")
        return MedlineCorpus(LocalFiles([f"{tmp_path}/n*.xml"]), "none", **options)

    return _make


def read(corpus: MedlineCorpus) -> list[Row]:
    """Return the rows without what they tell beside the text."""
    return [
        replace(row, facts=None) if isinstance(row, Document) else row for row in rows_of(corpus)
    ]


def rows_of(corpus: MedlineCorpus) -> list[Row]:
    return [row for shard in corpus.shards() for row in corpus.documents(shard)]


def test_a_record_becomes_title_and_abstract_under_its_pmid(make: Make) -> None:
    assert read(make(record(17))) == [Document("Title.\n\nText.", "17", "pubmed")]


def test_year_and_descriptors_come_with_the_document(make: Make) -> None:
    mesh = '<MeshHeading><DescriptorName UI="D051379">Mice</DescriptorName></MeshHeading>'
    listed = f"<MeshHeadingList>{mesh}</MeshHeadingList></MedlineCitation>"
    body = record(17).replace("</MedlineCitation>", listed) + record(18, year="")

    documents = [row for row in rows_of(make(body)) if isinstance(row, Document)]
    expected = [DocumentFacts(2000, (MeshTerm("D051379", "Mice"),)), DocumentFacts(None, ())]
    assert [row.facts for row in documents] == expected


def test_without_facts_the_settings_are_those_of_stores_that_never_had_them(make: Make) -> None:
    """Such stores must be continued: `keep_facts=false` asks for what they hold."""
    without = make(record(17), keep_facts=False)
    assert [row.facts for row in rows_of(without) if isinstance(row, Document)] == [None]
    settings = make(record(17)).settings()
    assert settings.pop("facts") == ["year", "mesh"]
    assert without.settings() == settings


def test_labels_are_an_option(make: Make) -> None:
    parts = '<AbstractText Label="AIM">A.</AbstractText><AbstractText>B.</AbstractText>'
    body = record(17, abstract=parts)
    assert read(make(body)) == [Document("Title.\n\nAIM: A. B.", "17", "pubmed")]
    assert read(make(body, keep_labels=False)) == [Document("Title.\n\nA. B.", "17", "pubmed")]


def test_only_the_standing_record_of_a_pmid_is_a_document(make: Make) -> None:
    first = record(1, "Old.") + record(2) + record(3, "Newer.", version=2) + record(3, "Older.")
    second = record(1, "New.") + deletion(2)
    assert read(make(first, second)) == [
        Reject("revised later", "1"),
        Reject("deleted", "2"),
        Document("Newer.\n\nText.", "3", "pubmed"),
        Reject("older version", "3"),
        Document("New.\n\nText.", "1", "pubmed"),
    ]


def test_files_count_in_the_order_of_their_names(make: Make, tmp_path: Path) -> None:
    make(record(1, "Old."), record(1, "New."))
    paths = [str(tmp_path / "n2.xml"), str(tmp_path / "n1.xml")]
    corpus = MedlineCorpus(LocalFiles(paths), "none")
    assert read(corpus) == [Reject("revised later", "1"), Document("New.\n\nText.", "1", "pubmed")]


def years(tmp_path: Path, *names: str) -> list[str]:
    for name in names:
        (tmp_path / name).write_text("<PubmedArticleSet/>")
    return [str(tmp_path / name) for name in names]


def test_files_of_several_years_are_refused(tmp_path: Path) -> None:
    """What a new baseline left out would come back from the old one."""
    paths = years(tmp_path, "pubmed25n0002.xml", "pubmed26n0001.xml", "pubmed26n0002.xml")
    with pytest.raises(DataError, match=r"several years: pubmed25n0002\.xml, pubmed26n0002\.xml"):
        MedlineCorpus(LocalFiles(paths), "none").shards()
    assert len(MedlineCorpus(LocalFiles(paths), "none", one_baseline=False).shards()) == 3


def test_baseline_and_updates_of_a_year_and_other_names_go_together(tmp_path: Path) -> None:
    paths = years(tmp_path, "pubmed26n0001.xml", "pubmed26n1335.xml", "extra.xml")
    assert len(MedlineCorpus(LocalFiles(paths), "none").shards()) == 3


def test_the_first_pass_is_kept_and_changes_no_document(make: Make, tmp_path: Path) -> None:
    bodies = record(1, "Old.") + record(2), record(1, "New.") + deletion(2)
    cache = str(tmp_path / "cache")
    plain, first, second = (read(make(*bodies, cache_dir=c)) for c in (None, cache, cache))

    assert plain == first == second
    assert sorted(path.name for path in Path(cache).iterdir()) == ["n1.xml.json", "n2.xml.json"]
    options = [make(*bodies, cache_dir=c).settings() for c in (None, cache)]
    assert options[0] == options[1]


EMPTY = "<AbstractText/>"
LEFT_OUT: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"abstract": EMPTY}, {}, "no abstract"),
    ({"abstract": EMPTY, "title": ""}, {"require_abstract": False}, "no text"),
    ({"kind": "Retracted Publication"}, {}, "retracted"),
    ({"kind": "Retraction Notice"}, {}, "retraction notice"),
    ({"kind": "Retraction of Publication"}, {}, "retraction notice"),
    ({"language": "fre"}, {"languages": ["eng", "ger"]}, "other language"),
    ({}, {"min_year": 2001}, "before min_year"),
    ({}, {"max_year": 1999}, "after max_year"),
    ({"year": ""}, {"max_year": 1999}, "no year"),
]
KEPT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"abstract": EMPTY}, {"require_abstract": False}),
    ({"title": ""}, {}),
    ({"kind": "Retracted Publication"}, {"drop_retracted": False}),
    ({"kind": "Retraction Notice"}, {"drop_retracted": False}),
    ({"language": "fre"}, {}),
    ({"language": "ger"}, {"languages": ["eng", "ger"]}),
    ({}, {"min_year": 2000, "max_year": 2000}),
    ({"year": ""}, {}),
]


@pytest.mark.parametrize(("fields", "options", "reason"), LEFT_OUT)
def test_what_is_left_out_is_counted_by_reason(
    fields: dict[str, Any], options: dict[str, Any], reason: str, make: Make
) -> None:
    assert read(make(record(5, **fields), **options)) == [Reject(reason, "5")]


@pytest.mark.parametrize(("fields", "options"), KEPT)
def test_what_no_rule_leaves_out_is_kept(
    fields: dict[str, Any], options: dict[str, Any], make: Make
) -> None:
    assert [row.id for row in read(make(record(5, **fields), **options))] == ["5"]
    assert all(isinstance(row, Document) for row in read(make(record(5, **fields), **options)))


def test_a_title_alone_is_a_document_if_asked_for(make: Make) -> None:
    rows = read(make(record(5, abstract=EMPTY), require_abstract=False))
    assert rows == [Document("Title.", "5", "pubmed")]


def test_books_and_records_without_pmid_are_counted(make: Make) -> None:
    book = "<PubmedBookArticle><BookDocument><PMID>8</PMID></BookDocument></PubmedBookArticle>"
    assert read(make(book + "<MedlineCitation/>")) == [
        Reject("book", "8"),
        Reject("no PMID", "n1.xml record 2", is_damaged=True),
    ]


def test_an_update_changes_the_fingerprints_of_the_files_that_it_revises(make: Make) -> None:
    def fingerprints(corpus: MedlineCorpus) -> list[str]:
        return [shard.fingerprint() for shard in corpus.shards()]

    before = fingerprints(make(record(1), record(2)))
    after = fingerprints(make(record(1), record(2), record(1)))
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_store_made_before_a_revision_is_refused(
    make: Make, write_corpus: Callable[..., Any], byte_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    manifest = write_corpus(tmp_path / "s", make(record(1)), byte_tokenizer, POLICY)
    assert manifest.totals["train"].documents == 1
    with pytest.raises(DataError, match="overwrite=true"):
        write_corpus(tmp_path / "s", make(record(1), deletion(1)), byte_tokenizer, POLICY)


def test_the_number_of_workers_changes_nothing(make: Make) -> None:
    bodies = [record(n) + record(9) for n in range(1, 4)]
    one, two = make(*bodies), make(*bodies, num_workers=2)
    assert read(one) == read(two)
    assert one.settings() == two.settings()


@pytest.mark.parametrize("body", ["", record(1) + record(2), "<MedlineCitation/>"])
def test_a_file_that_changed_between_the_passes_is_refused(body: str, make: Make) -> None:
    shards = make(record(1)).shards()
    corpus = make(body)
    with pytest.raises(DataError, match=r"n1\.xml has changed since the first pass"):
        list(corpus.documents(shards[0]))


def test_files_of_one_name_are_refused(make: Make, tmp_path: Path) -> None:
    make(record(1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "n1.xml").write_bytes((tmp_path / "n1.xml").read_bytes())
    paths = [f"{tmp_path}/n1.xml", f"{tmp_path}/other/n1.xml"]
    with pytest.raises(DataError, match=r"share a name: n1\.xml"):
        MedlineCorpus(LocalFiles(paths), "none").shards()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": 0}, "num_workers must be .*, found 0"),
        ({"languages": []}, "languages is empty"),
        ({"min_year": 2001, "max_year": 2000}, "min_year 2001 is after max_year 2000"),
    ],
)
def test_options_out_of_range_are_refused(
    options: dict[str, Any], message: str, make: Make
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(record(1), **options)


def test_real_files(real_data: Path) -> None:
    """Every record is a document or counted, and no PMID gives two documents."""
    source = LocalFiles([f"{real_data}/pubmed-xml/*.xml.gz"])
    corpus = MedlineCorpus(source, "none", languages=["eng"], one_baseline=False)
    shards = corpus.shards()
    rows = [row for shard in shards for row in corpus.documents(shard)]
    documents = [row for row in rows if isinstance(row, Document)]
    fates = np.concatenate([s.fates for s in shards if isinstance(s, MedlineShard)])
    reasons = Counter(row.reason for row in rows if isinstance(row, Reject))

    assert len(rows) == len(fates)
    assert len({document.id for document in documents}) == len(documents) > 1_000
    assert reasons["deleted"] >= 2
    assert reasons["older version"] >= 1
    assert not any(row.is_damaged for row in rows if isinstance(row, Reject))
    assert not any("  " in row.text or "\u00a0" in row.text for row in documents)
