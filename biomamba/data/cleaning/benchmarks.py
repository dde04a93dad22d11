"""The benchmarks that are kept out of training data: BioASQ, PubMedQA, WikiText, any table."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from biomamba.data.cleaning.ngrams import match_key
from biomamba.data.corpora.table import WikiText
from biomamba.data.document import Reject
from biomamba.data.raw_shards import expand_files
from biomamba.data.rows import LocalRows, read_json_file, with_columns
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import sha256_of

# -------------------------------------------------------------------------------------------------
# One item of a benchmark, and what every benchmark offers to the firewall.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """A question or article that a model will be tested on.

    Attributes:
        id: Name within the benchmark.
        texts: What must not be trained on; an n-gram never crosses two of them.
        pmids: PubMed articles that hold the answer.
        title: Title of the Wikipedia article that the item is; None if it is none.
        num_unknown_links: Links to articles that name no PMID.
    """

    id: str
    texts: Sequence[str]
    pmids: Sequence[str] = ()
    title: str | None = None
    num_unknown_links: int = 0


class Benchmark(Protocol):
    """A benchmark that the user has as files."""

    def fingerprints(self) -> dict[str, str]:
        """Return the hash of each of its files by name.

        Raises:
            DataError: If one is missing.
        """

    def items(self) -> Iterator[Item]:
        """Iterate over its items in a fixed order.

        Raises:
            DataError: If a file is not of the layout of the benchmark.
        """

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the items, apart from the bytes of the files."""


def hash_files(paths: Sequence[Path]) -> dict[str, str]:
    """Return the hash of each file by name; with its folder where two of them share the name.

    Files of the same name and content count once.
    """
    names = [path.name for path in paths]
    hashes: dict[str, str] = {}
    for path in paths:
        digest = f"sha256:{sha256_of(path)}"
        if hashes.setdefault(path.name, digest) != digest and names.count(path.name) > 1:
            hashes[f"{path.absolute().parent.name}/{path.name}"] = digest
    return hashes


def distinct_files(entries: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """Return the files that entries name, of those with the same bytes the first.

    A pattern that matches nothing gives nothing, as long as another entry gives a file: a release
    may be in one of several folders. Which patterns are empty says `empty_patterns`.

    Raises:
        DataError: If none gives a file, or one that is named without `*` is missing.
    """
    empty = set(empty_patterns(entries))
    if len(empty) == len(set(entries)):
        raise DataError(f"no raw file matches {' or '.join(dict.fromkeys(entries))}")
    found = [
        path for entry in entries if entry not in empty for path in expand_files(entry, suffixes)
    ]
    by_content: dict[str, Path] = {}
    for path in found:
        by_content.setdefault(sha256_of(path), path)
    return list(by_content.values())


def empty_patterns(entries: Sequence[str]) -> list[str]:
    """Return the patterns with `*` that match no file."""
    return [
        entry
        for entry in dict.fromkeys(entries)
        if "*" in Path(entry).name and not any(Path(entry).parent.glob(Path(entry).name))
    ]


def text_list(value: Any) -> list[str] | None:
    """Return a text, a list of texts or null as a list of texts; None for anything else."""
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        return None
    return values


# A bare number, `PMID: 123`, `pubmed:123` or `123[uid]`, with a version after a point or without.
_BARE = re.compile(r"(?:pmid|pubmed(?: id)?|medline|med)?[\s:=#]*0*(\d{1,8})(?:\.\d+)?(?:\[\w+\])?")
# .../pubmed/123, pubmed.ncbi.nlm.nih.gov/123, europepmc.org/article/MED/123
_IN_PATH = re.compile(
    r"(?:pubmed(?:\.ncbi\.nlm\.nih\.gov)?(?::443|:80)?|europepmc\.org/\w+/med|/pmid)"
    r"[/:]+0*(\d{1,8})(?!\d)"
)
# .../pubmed/?term=123, ?cmd=retrieve&list_uids=123,456
_IN_QUERY = re.compile(r"[?&;](?:term|uids?|list_uids|pmids?|ids?|from_uid)=([^&#]*)")
_NUMBER = re.compile(r"(?<![\w.])\d{1,9}(?!\w)")


def pmids_of(link: object) -> list[str]:
    """Return the PMIDs that a link or a number names, without leading zeros; none if it names none.

    A link is what data sets write: a bare PMID, also as a number, `PMID: 123`, a URL of PubMed of
    any year with the PMID in its path or in its query, or one of Europe PMC.
    """
    if isinstance(link, bool) or not isinstance(link, str | int):
        return []
    text = unquote(str(link)).strip().lower()
    if whole := _BARE.fullmatch(text):
        found = [whole[1]]
    elif in_path := _IN_PATH.search(text):
        found = [in_path[1]]
    elif ("pubmed" in text or "entrez" in text or "europepmc" in text) and (
        query := _IN_QUERY.search(text)
    ):
        found = _NUMBER.findall(re.sub(r"\[\w+\]", " ", query[1]).replace("+", " "))
    else:
        found = []
    return list(dict.fromkeys(str(int(number)) for number in found if int(number)))


# -------------------------------------------------------------------------------------------------
# BioASQ task B: questions with the PubMed articles and snippets that answer them.
#
# `read_questions` is the one reader of its files, for what is kept out of training and for the
# tasks: the JSON of the organizers, and files in the form of SQuAD.
# -------------------------------------------------------------------------------------------------

SQUAD = "squad"
_PIECE = re.compile(r"(.+?)[_:]\d+")  # the id of one snippet of a question


@dataclass(frozen=True)
class BioASQQuestion:
    """A question as a file has it.

    Attributes:
        id: Of the question.
        body: What is asked; may be empty.
        kind: Its type as the file writes it; SQUAD in a file of that form.
        snippets: Passages that answer it, each once.
        exact_answer: As the file writes it.
        ideal_answers: Answers in sentences.
        pmids: Of the articles and snippets.
        num_unknown_links: Links to articles that name no PMID.
        where: File and place, for messages.
    """

    id: str
    body: str
    kind: Any
    snippets: Sequence[str]
    exact_answer: Any
    ideal_answers: Sequence[str]
    pmids: Sequence[str]
    num_unknown_links: int
    where: str


@dataclass(frozen=True)
class BioASQ:
    """The questions of all files; those of the tasks are in conf/benchmark/_bioasq_files.yaml.

    A pattern that matches nothing is told and gives nothing, if another entry gives a file.

    Attributes:
        train_files: Training files of the tasks; `*` in a name stands for all that match.
        test_files: Test files of the tasks.
        files: Files of other years and batches.
    """

    files: list[str] | None = None
    train_files: list[str] | None = None
    test_files: list[str] | None = None

    def __post_init__(self) -> None:
        if not self._entries:
            raise ConfigError(
                "files of BioASQ is empty, and so are train_files and test_files; name at least "
                "one JSON file"
            )

    def fingerprints(self) -> dict[str, str]:
        """Return the hashes of the files by name."""
        return hash_files(self._paths())

    def settings(self) -> dict[str, Any]:
        """Return the layout; the bytes of the files say the rest."""
        return {"layout": type(self).__name__}

    def notices(self) -> list[str]:
        """Return which patterns match no file."""
        return [f"BioASQ: no file matches {entry}" for entry in empty_patterns(self._entries)]

    def items(self) -> Iterator[Item]:
        """Iterate over the questions: body, snippets and ideal answers, and the PMIDs of all."""
        for path in self._paths():
            for question in read_questions(path):
                yield Item(
                    question.id,
                    [question.body, *question.snippets, *question.ideal_answers],
                    pmids=question.pmids,
                    num_unknown_links=question.num_unknown_links,
                )

    @property
    def _entries(self) -> list[str]:
        return [*(self.files or []), *(self.train_files or []), *(self.test_files or [])]

    def _paths(self) -> list[Path]:
        return distinct_files(self._entries, [".json"])


def read_questions(path: Path) -> Iterator[BioASQQuestion]:
    """Iterate over the questions of a file, golden or in the form of SQuAD.

    Raises:
        DataError: The file is in neither layout.
    """
    content = read_json_file(path)
    if isinstance(content, dict) and "data" in content:
        merged = _squad(content, path)
        if not merged:
            raise DataError(f"{path} is in the form of SQuAD and has no question")
        yield from merged
        return
    questions = content.get("questions") if isinstance(content, dict) else None
    if not isinstance(questions, list) or not questions:
        raise DataError(f"{path} is not BioASQ: it has no list 'questions' (nor 'data' of SQuAD)")
    for number, question in enumerate(questions, start=1):
        yield _golden(question, f"{path}: question {number}")


def _golden(question: Any, where: str) -> BioASQQuestion:
    if not isinstance(question, dict):
        raise DataError(f"{where} is not BioASQ: it must be an object")
    snippets = question.get("snippets") or []
    if not isinstance(snippets, list) or not all(isinstance(s, dict) for s in snippets):
        raise DataError(f"{where} is not BioASQ: snippets must be a list of objects")
    name, body = question.get("id"), question.get("body")
    if not isinstance(name, str) or not name or not isinstance(body, str):
        raise DataError(f"{where} is not BioASQ: id and body must be text")
    passages = text_list([snippet.get("text") or "" for snippet in snippets])
    answers = text_list(question.get("ideal_answer"))
    documents = question.get("documents")
    documents = [documents] if isinstance(documents, str | int) else documents or []
    if passages is None or answers is None or not isinstance(documents, list):
        raise DataError(
            f"{where} is not BioASQ: documents must be a list, the text of a snippet and "
            "ideal_answer must hold text"
        )
    # A snippet mostly repeats a link of the list.
    links = list(dict.fromkeys(map(str, [*documents, *_links_of(snippets)])))
    return BioASQQuestion(
        id=name,
        body=body,
        kind=question.get("type"),
        snippets=_distinct(passages),
        exact_answer=question.get("exact_answer"),
        ideal_answers=answers,
        pmids=sorted({pmid for link in links for pmid in pmids_of(link)}),
        num_unknown_links=sum(not pmids_of(link) for link in links),
        where=where,
    )


def _links_of(snippets: Sequence[dict[str, Any]]) -> list[Any]:
    return [link for snippet in snippets if (link := snippet.get("document")) is not None]


def _squad(content: dict[str, Any], path: Path) -> list[BioASQQuestion]:
    """Merge the rows of each question: one row is one snippet."""
    merged: dict[str, BioASQQuestion] = {}
    for name, body, snippet, answers in _squad_rows(content, path):
        one = BioASQQuestion(
            name, body, SQUAD, _distinct([snippet]), [_distinct(answers)], (), (), 0, str(path)
        )
        before = merged.setdefault(name, one)
        if match_key(before.body) != match_key(one.body):
            raise DataError(f"{path}: two questions have the id {name}; give each its own")
        merged[name] = replace(
            before,
            snippets=_distinct([*before.snippets, *one.snippets]),
            exact_answer=[_distinct([*before.exact_answer[0], *one.exact_answer[0]])],
        )
    return list(merged.values())


def _squad_rows(content: dict[str, Any], path: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield id, question, snippet and answers of each row."""
    try:
        for paragraph in (each for entry in content["data"] for each in entry["paragraphs"]):
            for row in paragraph["qas"]:
                name, body, snippet = str(row["id"]), row["question"], paragraph["context"]
                given = row.get("answers") or []
                answers = [given] if isinstance(given, str) else [each["text"] for each in given]
                if text_list([body, snippet, *answers]) is None:
                    raise TypeError("a text is not text")
                whole = _PIECE.fullmatch(name)
                yield (whole[1] if whole else name), body.strip(), snippet, answers
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not SQuAD ({error}): it needs data, paragraphs, context, qas, id and "
            "question"
        ) from error


def _distinct(texts: Sequence[str]) -> list[str]:
    """Drop empty and repeated texts."""
    return list(dict.fromkeys(text for text in texts if text.strip()))


# -------------------------------------------------------------------------------------------------
# PubMedQA: yes/no/maybe questions about one abstract each, keyed by its PMID.
#
# `read_records` is the one reader of its files, for what is kept out of training and for the task.
# -------------------------------------------------------------------------------------------------

SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".parquet")
# Columns of `qiaojin/PubMedQA` on the hub, by the keys of ori_pqal.json.
_COLUMNS = {
    "QUESTION": "question",
    "LONG_ANSWER": "long_answer",
    "final_decision": "final_decision",
}


@dataclass(frozen=True)
class PubMedQARecord:
    """A question as a file has it.

    Attributes:
        pmid: Of its abstract.
        question: What is asked; may be empty.
        contexts: Sections of the abstract.
        sections: Their labels; None if they are not as many.
        long_answer: Conclusion of the abstract, empty where the file has none.
        decision: Its label as the file writes it.
        year: Of the article, None if not known.
        where: File and place, for messages.
    """

    pmid: str
    question: str
    contexts: Sequence[str]
    sections: Sequence[str] | None
    long_answer: Sequence[str]
    decision: Any
    year: str | None
    where: str


@dataclass(frozen=True)
class PubMedQA:
    """The labelled set, as its authors publish it or in the layout of the hub.

    The contexts and the long answer together are the abstract; the question is mostly its title.

    Attributes:
        file: `ori_pqal.json`, an object from PMID to QUESTION, CONTEXTS and LONG_ANSWER, or
            .parquet or .jsonl rows in the layout of `qiaojin/PubMedQA`.
    """

    file: str

    def fingerprints(self) -> dict[str, str]:
        """Return the hash of the file."""
        return hash_files(self._paths())

    def settings(self) -> dict[str, Any]:
        """Return the layout; the bytes of the file say the rest."""
        return {"layout": type(self).__name__}

    def items(self) -> Iterator[Item]:
        """Iterate over the questions, each named by its PMID."""
        for path in self._paths():
            for record in read_records(path):
                if isinstance(record, Reject):
                    raise DataError(f"benchmark file {record.id}: {record.reason}; fix the file")
                texts = {
                    "QUESTION": [record.question] if record.question.strip() else [],
                    "CONTEXTS": record.contexts,
                    "LONG_ANSWER": record.long_answer,
                }
                missing = [name for name, found in texts.items() if not found]
                if missing:
                    raise DataError(
                        f"{record.where} is not PubMedQA: {missing[0]} must be text; found none"
                    )
                parts = [text for found in texts.values() for text in found]
                yield Item(record.pmid, parts, pmids=[record.pmid])

    def _paths(self) -> list[Path]:
        return expand_files(self.file, SUFFIXES)


def read_records(path: Path) -> Iterator[PubMedQARecord | Reject]:
    """Iterate over the questions of a file; a row that cannot be decoded is a Reject.

    Raises:
        DataError: The file is in neither layout.
    """
    if path.suffix == ".json":
        content = read_json_file(path)
        if not isinstance(content, dict) or not content:
            raise DataError(f"{path} is not PubMedQA: it must be an object keyed by PMID")
        for name, value in content.items():
            yield _record(name, value, f"{path}: record {name}")
        return
    number = 0
    (shard,) = with_columns(
        LocalRows([str(path)]).shards(), (*_COLUMNS.values(), "pubid", "context")
    )
    for number, row in enumerate(shard.rows(), start=1):
        if isinstance(row, Reject):
            yield row
            continue
        where, context = f"{path}: row {number}", row.get("context")
        if not isinstance(context, dict):
            raise DataError(f"{where} is not PubMedQA: it needs a context of contexts and labels")
        value = {name: row.get(column) for name, column in _COLUMNS.items()}
        value |= {"CONTEXTS": context.get("contexts"), "LABELS": context.get("labels")}
        yield _record(str(row.get("pubid")), value, where)
    if not number:
        raise DataError(f"{path} is not PubMedQA: it has no rows")


def _record(name: str, value: Any, where: str) -> PubMedQARecord:
    if not isinstance(value, dict):
        raise DataError(f"{where} is not PubMedQA: it must be an object")
    question = value.get("QUESTION")
    contexts, sections = text_list(value.get("CONTEXTS")), text_list(value.get("LABELS"))
    long_answer, year = text_list(value.get("LONG_ANSWER")), value.get("YEAR")
    if not isinstance(question, str):
        raise DataError(f"{where} is not PubMedQA: QUESTION must be text")
    if contexts is None or long_answer is None:
        raise DataError(f"{where} is not PubMedQA: CONTEXTS and LONG_ANSWER must be lists of text")
    is_paired = sections is not None and len(sections) == len(contexts)
    return PubMedQARecord(
        pmid=next(iter(pmids_of(name)), name),
        question=question,
        contexts=contexts,
        sections=sections if is_paired else None,
        long_answer=[text for text in long_answer if text.strip()],
        decision=value.get("final_decision"),
        year=year if isinstance(year, str) and year else None,
        where=where,
    )


# -------------------------------------------------------------------------------------------------
# Any benchmark whose items are the rows of a table: MedQA, MMLU, house sets.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextColumns:
    """One item per row of JSON lines, CSV or Parquet files.

    Attributes:
        files: Files; `*` in a name stands for all that match.
        text_columns: Columns of a text or a list of texts that must not be trained on.
        id_column: Column that names the item; None names it by file and row.
        pmid_column: Column of a PMID; None if there is none.
    """

    files: list[str]
    text_columns: list[str]
    id_column: str | None = None
    pmid_column: str | None = None

    def __post_init__(self) -> None:
        if not self.files or not self.text_columns:
            raise ConfigError("files and text_columns of a benchmark must name at least one each")

    def fingerprints(self) -> dict[str, str]:
        """Return the hashes of the files by name."""
        return {shard.name: shard.fingerprint() for shard in LocalRows(self.files).shards()}

    def settings(self) -> dict[str, Any]:
        """Return the columns; the bytes of the files say the rest."""
        return {
            "layout": type(self).__name__,
            "text_columns": list(self.text_columns),
            "id_column": self.id_column,
            "pmid_column": self.pmid_column,
        }

    def items(self) -> Iterator[Item]:
        """Iterate over the rows."""
        named = (*self.text_columns, self.id_column, self.pmid_column)
        columns = [name for name in named if name is not None]
        for shard in with_columns(LocalRows(self.files).shards(), columns):
            num_rows = 0
            for num_rows, row in enumerate(shard.rows(), start=1):
                yield self._item(row, f"{shard.name} row {num_rows}")
            if not num_rows:
                raise DataError(f"benchmark file {shard.name} has no rows")

    def _item(self, row: Any, where: str) -> Item:
        if isinstance(row, Reject):
            raise DataError(f"benchmark file {row.id}: {row.reason}; fix the file")
        named = [name for name in (self.id_column, self.pmid_column) if name is not None]
        absent = [name for name in (*self.text_columns, *named) if name not in row]
        if absent:
            raise DataError(f"{where} of a benchmark has no column {absent}; it has {sorted(row)}")
        texts: list[str] = []
        for column in self.text_columns:
            found = text_list(row[column])
            if found is None:
                raise DataError(f"{where} of a benchmark: column {column!r} is not text")
            texts += found
        pmid = "" if self.pmid_column is None else str(row[self.pmid_column] or "").strip()
        name = where if self.id_column is None else str(row[self.id_column])
        return Item(name, texts, pmids=[pmid] if pmid else [])


# -------------------------------------------------------------------------------------------------
# WikiText: whole Wikipedia articles whose perplexity is measured.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WikiTextArticles:
    """The articles of the raw files in the hub layout, one line per row.

    Attributes:
        files: Files with a column `text`; `*` in a name stands for all that match.
    """

    files: list[str]

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("files of WikiText is empty; name at least one")

    def fingerprints(self) -> dict[str, str]:
        """Return the hashes of the files by name."""
        return {shard.name: shard.fingerprint() for shard in LocalRows(self.files).shards()}

    def settings(self) -> dict[str, Any]:
        """Return the layout; the bytes of the files say the rest."""
        return {"layout": type(self).__name__}

    def items(self) -> Iterator[Item]:
        """Iterate over the articles, named by their titles."""
        corpus = WikiText(LocalRows(self.files), licence="")
        for shard in corpus.shards():
            num_articles = 0
            for article in corpus.documents(shard):
                if not isinstance(article, Reject):
                    num_articles += 1
                    yield Item(article.id, [article.text], title=article.id)
                elif article.reason != "empty article":
                    raise DataError(
                        f"benchmark file {shard.name} is not WikiText ({article.reason} at "
                        f"{article.id}); use the raw test split, one line per row"
                    )
            if not num_articles:
                raise DataError(f"benchmark file {shard.name} holds no WikiText article")
