"""The firewall as a whole: files to hits."""

import json
import pickle
from pathlib import Path

import pytest

from biomamba.data.cleaning.benchmark_filter import Firewall, Rule
from biomamba.data.cleaning.benchmarks import PubMedQA, TextColumns
from biomamba.data.cleaning.ngrams import hash_words
from biomamba.data.document import Document
from biomamba.runtime.errors import ConfigError, DataError

QUESTION = "does a long rest after lunch help people who work with their hands all day"


def benchmark(folder: Path, name: str = "set", question: str = QUESTION) -> TextColumns:
    path = folder / f"{name}.jsonl"
    path.write_text(json.dumps({"q": question}) + "\n")
    return TextColumns([str(path)], ["q"])


def test_a_document_that_holds_an_item_is_a_hit(tmp_path: Path) -> None:
    firewall = Firewall({"set": benchmark(tmp_path)})
    documents = [
        Document("Nothing of it.", "1", "web"),
        Document(f"We asked: {QUESTION.capitalize()}?", "2", "web"),
    ]
    (hit,) = firewall.hits(documents, hash_words([d.text for d in documents]))

    # 15 words are three 13-grams.
    assert (hit["document"], hit["item"], hit["rule"], hit["ngrams"]) == (1, 0, Rule.NGRAM, 3)


def test_no_benchmarks_hit_nothing() -> None:
    assert Firewall().hits([Document(QUESTION, "1", "pubmed")], hash_words([QUESTION])).size == 0
    assert Firewall().settings()["benchmarks"] == {}


def test_items_are_numbered_by_name_whatever_the_order_of_the_config(tmp_path: Path) -> None:
    one, two = benchmark(tmp_path, "one"), benchmark(tmp_path, "two")
    orders = [Firewall({"b": one, "a": two}), Firewall({"a": two, "b": one})]

    assert [f.index.names for f in orders] == [
        [("a", "two.jsonl row 1"), ("b", "one.jsonl row 1")]
    ] * 2
    assert orders[0].settings() == orders[1].settings()


def test_settings_change_with_the_bytes_of_a_file_but_not_with_its_place(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
    found = [
        Firewall({"set": benchmark(folder, question=question)}).settings()
        for folder, question in zip(folders, ["same", "same", "other"], strict=True)
    ]

    assert found[0] == found[1]
    assert found[0] != found[2]
    json.dumps(found[0])


def test_a_missing_file_stops_before_any_document_is_read() -> None:
    firewall = Firewall({"pubmedqa": PubMedQA("no/such/ori_pqal.json")})

    with pytest.raises(DataError, match=r"ori_pqal\.json does not exist"):
        firewall.settings()


def test_a_worker_process_gets_the_items_with_the_firewall(tmp_path: Path) -> None:
    firewall = Firewall({"set": benchmark(tmp_path)})
    firewall.settings()
    copied = pickle.loads(pickle.dumps(firewall))
    (tmp_path / "set.jsonl").unlink()

    assert copied.index.names == [("set", "set.jsonl row 1")]


@pytest.mark.parametrize("options", [{"ngram_words": 0}, {"min_ngrams": 0}])
def test_senseless_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1, found 0"):
        Firewall(**options)  # type: ignore[arg-type]


def test_a_copy_of_a_real_item_is_found_without_its_pmid(real_data: Path) -> None:
    firewall = Firewall({"pubmedqa": PubMedQA(str(real_data / "pubmedqa" / "ori_pqal.json"))})
    items = {name: place for place, (_, name) in enumerate(firewall.index.names)}
    texts = list(firewall.benchmarks["pubmedqa"].items())[items["11500608"]].texts
    article = Document(" ".join(texts), "a copy under another name", "web")
    (hit,) = firewall.hits([article], hash_words([article.text]))

    assert firewall.index.names[hit["item"]] == ("pubmedqa", "11500608")
