"""BioASQ items from invented files of its layout, and from real ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.cleaning.benchmarks import BioASQ, pmids_of
from biomamba.runtime.errors import ConfigError, DataError

QUESTION: dict[str, Any] = {
    "id": "q1",
    "body": "Does rest help?",
    "type": "yesno",
    "documents": ["http://www.ncbi.nlm.nih.gov/pubmed/22", "https://example.org/1"],
    "snippets": [
        {"text": "Rest helps.", "document": "https://pubmed.ncbi.nlm.nih.gov/11/"},
        {"text": "It does.", "document": "http://www.ncbi.nlm.nih.gov/pubmed/22"},
    ],
    "ideal_answer": ["Yes, it helps.", "Yes."],
    "exact_answer": "yes",
    "concepts": ["x"],
}


def written(tmp_path: Path, content: Any, name: str = "golden.json") -> BioASQ:
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    return BioASQ([str(tmp_path / "*.json")])


def test_an_item_is_body_snippets_and_answers_with_the_pmids_of_all_links(tmp_path: Path) -> None:
    (item,) = written(tmp_path, {"questions": [QUESTION]}).items()

    assert item.id == "q1"
    assert item.texts == ["Does rest help?", "Rest helps.", "It does.", "Yes, it helps.", "Yes."]
    assert item.pmids == ["11", "22"]


def test_files_of_several_years_are_read_in_order(tmp_path: Path) -> None:
    written(tmp_path, {"questions": [{**QUESTION, "id": "new"}]}, "12B.json")
    benchmark = written(tmp_path, {"questions": [{**QUESTION, "id": "old"}]}, "09B.json")

    assert [item.id for item in benchmark.items()] == ["old", "new"]
    assert list(benchmark.fingerprints()) == ["09B.json", "12B.json"]


def test_answers_may_be_one_text_and_gold_may_be_absent(tmp_path: Path) -> None:
    test_set = {"id": "q2", "body": "Why?"}
    questions = [{**QUESTION, "ideal_answer": "Yes."}, test_set]
    first, second = written(tmp_path, {"questions": questions}).items()

    assert list(first.texts)[-1] == "Yes."
    assert second.texts == ["Why?"]
    assert second.pmids == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([QUESTION], "has no list 'questions'"),
        ({"questions": []}, "has no list 'questions'"),
        ({"data": []}, "has no question"),
        ({"questions": ["q"]}, "question 1 is not BioASQ: it must be an object"),
        ({"questions": [{"id": "q"}]}, "id and body must be text"),
        ({"questions": [{**QUESTION, "snippets": "text"}]}, "snippets must be a list of objects"),
        ({"questions": [{**QUESTION, "snippets": [{"text": 1}]}]}, "must hold text"),
        ({"questions": [{**QUESTION, "documents": {"a": 5}}]}, "documents must be a list"),
    ],
)
def test_a_file_of_another_layout_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        list(written(tmp_path, content).items())


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="files of BioASQ is empty"):
        BioASQ([])
    with pytest.raises(DataError, match="no raw file matches"):
        BioASQ([str(tmp_path / "*.json")]).fingerprints()


def test_the_real_files_name_an_article_for_each_question(real_data: Path) -> None:
    items = list(BioASQ([str(real_data / "bioasq-12b-golden" / "*.json")]).items())

    assert items
    assert all(item.pmids and len(item.texts) > 1 for item in items)


@pytest.mark.parametrize(
    "link",
    [
        "15829955",
        15829955,
        " 015829955",
        "PMID: 15829955",
        "pubmed:15829955",
        "15829955[uid]",
        "15829955.2",
        "http://www.ncbi.nlm.nih.gov/pubmed/15829955",
        "https://www.ncbi.nlm.nih.gov/pubmed/15829955/",
        "www.ncbi.nlm.nih.gov/m/pubmed/15829955?report=abstract",
        "pubmed/?term=15829955",
        "http://www.ncbi.nlm.nih.gov/pubmed/?term=15829955[uid]",
        "https://www.ncbi.nlm.nih.gov/pubmed?term=15829955%5Bpmid%5D",
        "https://pubmed.ncbi.nlm.nih.gov/15829955/",
        "HTTPS://PubMed.ncbi.nlm.nih.gov/15829955/#abstract",
        "https://pubmed.ncbi.nlm.nih.gov/?term=15829955",
        "http://www.ncbi.nlm.nih.gov/entrez/query.fcgi?cmd=Retrieve&db=pubmed&list_uids=15829955",
        "https://europepmc.org/article/MED/15829955",
    ],
)
def test_a_pmid_is_found_in_every_form_of_a_link(link: str | int, tmp_path: Path) -> None:
    question = {"id": "q", "body": "Why?", "documents": [link]}
    (item,) = written(tmp_path, {"questions": [question]}).items()

    assert (item.pmids, item.num_unknown_links) == (["15829955"], 0)


def test_links_without_a_pmid_are_counted(tmp_path: Path) -> None:
    links = ["https://doi.org/10.1000/med/123", "PMC15829955", "https://pubmed.org/about", ""]
    question = {"id": "q", "body": "Why?", "documents": [*links, "22"]}
    (item,) = written(tmp_path, {"questions": [question]}).items()

    assert (item.pmids, item.num_unknown_links) == (["22"], 4)
    many = "http://www.ncbi.nlm.nih.gov/pubmed/?term=11+OR+22,33"
    assert pmids_of(many) == ["11", "22", "33"]


def test_files_in_the_form_of_squad_are_read(tmp_path: Path) -> None:
    rows = [
        {"context": text, "qas": [{"id": f"q1_00{n}", "question": "Why rest?", "answers": []}]}
        for n, text in enumerate(["Rest helps.", "It does."])
    ]
    (item,) = written(tmp_path, {"data": [{"paragraphs": rows}]}).items()

    assert item.id == "q1"
    assert item.texts == ["Why rest?", "Rest helps.", "It does."]


def test_a_folder_that_is_not_there_gives_nothing_and_is_told(tmp_path: Path) -> None:
    written(tmp_path, {"questions": [QUESTION]})
    absent = str(tmp_path / "absent" / "*.json")
    benchmark = BioASQ([absent], test_files=[str(tmp_path / "*.json")])

    assert [item.id for item in benchmark.items()] == ["q1"]
    assert benchmark.notices() == [f"BioASQ: no file matches {absent}"]
    with pytest.raises(DataError, match="no raw file matches"):
        BioASQ([absent]).fingerprints()
    with pytest.raises(DataError, match=r"gone\.json does not exist"):
        BioASQ([str(tmp_path / "gone.json"), str(tmp_path / "*.json")]).fingerprints()


def test_a_file_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    written(tmp_path, {"questions": [QUESTION]})
    (tmp_path / "copy").mkdir()
    written(tmp_path / "copy", {"questions": [QUESTION]})
    benchmark = BioASQ([str(tmp_path / "*.json")], test_files=[str(tmp_path / "copy" / "*.json")])

    assert len(list(benchmark.items())) == 1
    assert len(benchmark.fingerprints()) == 1
