"""BioASQ task B: questions with the PubMed articles and snippets that answer them.

`read_questions` is the one reader of its files, for what is kept out of training and for the tasks:
the JSON of the organizers, and files in the form of SQuAD.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biomamba.data.cleaning.benchmarks.item import (
    Item,
    distinct_files,
    empty_patterns,
    hash_files,
    pmids_of,
    text_list,
)
from biomamba.data.cleaning.words import match_key
from biomamba.data.text_files import read_json_file
from biomamba.runtime.errors import ConfigError, DataError

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
