"""contamination.json: what was found, by counts, ids and hashes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from biomamba.config.check import build
from biomamba.data.cleaning.benchmark_filter import Firewall
from biomamba.data.cleaning.benchmarks import TextColumns
from biomamba.data.cleaning.contamination import contamination_report, findings
from biomamba.data.cleaning.decisions import ShardTable, decide
from biomamba.data.cleaning.near_duplicates import NearDuplicates
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.corpora.table import ColumnCorpus
from biomamba.data.document import SPLITS, Document, SplitRule, document_key
from biomamba.data.prepare.pipeline import prepare
from biomamba.data.rows import LocalRows
from biomamba.data.store.format import read_index
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import ByteLevel

CHECKOUT = Path(__file__).resolve().parents[3]
RULE = SplitRule(100, 100)
SECRET = "this secret sentence belongs to a benchmark with a licence that keeps it at home"
ROWS = [
    {"name": "q1", "text": SECRET, "pmid": "11"},
    {"name": "q2", "text": "short", "pmid": "22"},
    {"name": "q3", "text": SECRET + " and more", "pmid": None},
]


def table(corpus: str, domain: str, documents: Sequence[Document], policy: Cleaning) -> ShardTable:
    marks = policy.marks(documents)
    keys = np.array([document_key(document.id) for document in documents], np.uint64)
    return ShardTable(corpus, domain, keys, keys, marks.text, marks.bands, marks.hits)


@pytest.fixture
def cleaning(tmp_path: Path) -> Cleaning:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    benchmark = TextColumns([str(path)], ["text"], id_column="name", pmid_column="pmid")
    return Cleaning(near_duplicates=NearDuplicates(), firewall=Firewall({"house": benchmark}))


def test_the_report_counts_what_was_found_and_names_it(cleaning: Cleaning) -> None:
    copy = " ".join(f"w{i}" for i in range(100))
    pubmed = [
        Document("An article.", "11", "pubmed"),
        Document("Another.", "33", "pubmed"),
        Document(f"{copy} a", "44", "pubmed"),
        Document(f"{copy} b", "55", "pubmed"),
        Document(f"{copy} c", "66", "pubmed"),
    ]
    web = [Document(f"They wrote: {SECRET}!", "x", "web"), Document("Another", "y", "web")]
    tables = [
        table("abstracts", "pubmed", pubmed, cleaning),
        table("pages", "web", web[:1], cleaning),
        table("pages", "web", web[1:], cleaning),
    ]
    decisions = decide(tables, cleaning, RULE)
    report = contamination_report(tables, decisions, cleaning, RULE)
    none = {"duplicate id": 0, "duplicate text": 0, "near duplicate": 0, "benchmark": 0}
    splits = {RULE.split_of(document_key(name)) for name in ("44", "55", "66")}

    assert report["corpora"] == {
        "abstracts": {"documents": 5, "kept": 4, "removed": {**none, "benchmark": 1}},
        "pages": {
            "documents": 2,
            "kept": 0,
            "removed": {**none, "benchmark": 1, "duplicate text": 1},
        },
    }
    assert report["benchmarks"] == {
        "house": {
            "items": 3,
            "items_too_short_for_ngrams": 1,
            "links_without_pmid": 0,
            "items_found": 2,
            "documents": {
                "abstracts": {"any rule": 1, "pmid": 1},
                "pages": {"any rule": 1, "ngram": 1},
            },
        }
    }
    assert report["near_duplicates"]["clusters"] == 1
    assert report["near_duplicates"]["documents"] == report["near_duplicates"]["largest"] == 3
    assert (report["near_duplicates"]["moved_to_the_split_of_their_cluster"] > 0) == (
        len(splits) > 1
    )
    assert report["documents"] == [
        {
            "corpus": "abstracts",
            "key": f"{document_key('11'):016x}",
            "pmid": "11",
            "benchmark": "house",
            "rules": ["pmid"],
            "num_items": 1,
            "items": ["q1"],
            "ngrams": 0,
        },
        {
            "corpus": "pages",
            "key": f"{document_key('x'):016x}",
            "pmid": None,
            "benchmark": "house",
            "rules": ["ngram"],
            "num_items": 2,
            "items": ["q1", "q3"],
            "ngrams": 3,
        },
    ]


def test_findings_are_told_in_a_line_each(cleaning: Cleaning) -> None:
    documents = [Document(f"{SECRET} {i}", str(i), "web") for i in range(3)]
    tables = [table("pages", "web", documents, cleaning)]
    report = contamination_report(tables, decide(tables, cleaning, RULE), cleaning, RULE)

    assert findings(report) == [
        "0 documents in 0 clusters of near-duplicates, the largest of 0; "
        "0 documents changed split for their sake",
        "benchmark house: 2 of 3 items found; documents left out for it: 3",
    ]


def test_documents_that_changed_split_are_counted(cleaning: Cleaning) -> None:
    text = " ".join(f"w{i}" for i in range(100))
    documents = [Document(f"{text} x{i}", str(i), "web") for i in range(200)]
    tables = [table("pages", "web", documents, cleaning)]
    report = contamination_report(tables, decide(tables, cleaning, RULE), cleaning, RULE)
    keys = [document_key(document.id) for document in documents]
    home = RULE.split_of(min(keys))

    assert report["near_duplicates"] == {
        "clusters": 1,
        "documents": 200,
        "largest": 200,
        "moved_to_the_split_of_their_cluster": sum(RULE.split_of(key) != home for key in keys),
    }


def test_the_report_holds_no_text_and_the_hashes_of_the_benchmark_files(
    cleaning: Cleaning,
) -> None:
    documents = [Document(f"{SECRET} {i}", str(i), "web") for i in range(3)]
    tables = [table("pages", "web", documents, cleaning)]
    printed = json.dumps(
        contamination_report(tables, decide(tables, cleaning, RULE), cleaning, RULE)
    )
    assert "secret" not in printed
    assert '"files": {"set.jsonl": "sha256:' in printed
    assert '"is_firewall_on": true' in printed


def test_a_set_without_firewall_or_documents_says_so() -> None:
    cleaning = Cleaning()
    tables = [table("pages", "web", [], cleaning)]
    report = contamination_report(tables, decide(tables, cleaning, RULE), cleaning, RULE)

    assert report["is_firewall_on"] is False
    assert report["benchmarks"] == {}
    assert report["documents"] == []
    assert report["corpora"]["pages"]["documents"] == 0


def test_the_committed_counts_are_found_again(
    real_data: Path, compose: Callable[..., DictConfig]
) -> None:
    path = CHECKOUT / "docs" / "results" / "contamination.json"
    committed = json.loads(path.read_text(encoding="utf-8"))
    cfg = compose(
        "prepare",
        "corpus=[local_pubmed]",
        "benchmark=[pubmedqa,bioasq,wikitext]",
        f"paths.raw_dir={real_data}",
    )
    cleaning, corpus = build(cfg.cleaning), build(cfg.corpora.pubmed)
    (shard,) = corpus.shards()
    documents = [row for row in corpus.documents(shard) if isinstance(row, Document)]
    tables = [
        table("pubmed", "pubmed", documents[start : start + 512], cleaning)
        for start in range(0, len(documents), 512)
    ]
    rule = SplitRule(**committed["settings"]["split"])
    report = contamination_report(tables, decide(tables, cleaning, rule), cleaning, rule)

    assert report["settings"] == committed["settings"]
    assert report["corpora"]["pubmed"] == committed["corpora"]["pubmed"]
    assert report["benchmarks"]["pubmedqa"] == committed["benchmarks"]["pubmedqa"]
    assert report["documents"] == committed["documents"]


def prepared_splits(folder: Path, rows: Sequence[dict[str, str]], cleaning: Cleaning) -> set[Any]:
    """Prepare rows as three files of one corpus and return (key, split) of all that was stored."""
    folder.mkdir()
    for number in range(3):
        lines = [json.dumps(row) + "\n" for row in rows[number::3]]
        (folder / f"{number}.jsonl").write_text("".join(lines), encoding="utf-8")
    source = LocalRows([str(folder / "*.jsonl")])
    corpus = ColumnCorpus(source, "web", "none", ["text"], id_column="id")
    prepare(folder / "set", {"pages": corpus}, ByteLevel(), StorePolicy(200, 200), cleaning)
    return {
        (int(key), split)
        for split in SPLITS
        for path in (folder / "set" / "pages").glob(f"*.{split}.idx")
        for key in read_index(path)["key"]
    }


def test_a_prepared_set_holds_no_benchmark_text_and_no_copy_in_two_splits(
    cleaning: Cleaning, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in random.integers(0, 5_000, 60)) for _ in range(60)]
    rows = [
        {"id": f"{number}-{copy}", "text": f"{text} {'x' * copy}"}
        for number, text in enumerate(texts)
        for copy in range(4)
    ]
    rows += [{"id": f"leak {n}", "text": f"w{n} {SECRET}"} for n in range(20)]
    expected: dict[int, set[str]] = {}
    stored = prepared_splits(tmp_path / "one", rows, cleaning)
    for key, split in stored:
        expected.setdefault(key, set()).add(split)
    by_text = [
        set().union(*(expected[document_key(f"{number}-{copy}")] for copy in range(4)))
        for number in range(len(texts))
    ]
    random.shuffle(rows)  # type: ignore[arg-type]

    assert len(stored) == 4 * len(texts)
    assert all(len(splits) == 1 for splits in by_text)
    assert set().union(*by_text) == set(SPLITS)
    assert prepared_splits(tmp_path / "two", rows, cleaning) == stored


def test_the_record_holds_the_measured_recall_of_its_rules(tmp_path: Path) -> None:
    committed = json.loads(
        (CHECKOUT / "docs" / "results" / "cleaning_quality.json").read_text(encoding="utf-8")
    )
    measured = {
        (row["benchmark"], row["text"]): row["found_after_edits"]
        for row in committed["benchmark_recall"]
        if row["passages"]
    }
    (tmp_path / "q.jsonl").write_text('{"q": "why"}\n')
    benchmarks = {"bioasq": TextColumns([str(tmp_path / "q.jsonl")], ["q"])}
    rule = SplitRule(30, 50)

    report = contamination_report([], [], Cleaning(firewall=Firewall(benchmarks)), rule)

    assert len(report["measured_recall"]) == len(measured) == 5
    for row in report["measured_recall"]:
        found = measured[row["benchmark"], row["text"]]
        for edits, shares in row["found_after_edits"].items():
            assert shares | {"of": row["n"]} == found[edits]
    assert sum("measured on" in line for line in findings(report)) == 2
    other = Cleaning(firewall=Firewall(benchmarks, passage_words=None))
    assert contamination_report([], [], other, rule)["measured_recall"] is None
    assert contamination_report([], [], Cleaning(), rule)["measured_recall"] is None
