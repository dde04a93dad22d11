"""Questions of BioASQ task B from its own JSON files and from files in the form of SQuAD."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biomamba.data.cleaning.benchmarks.item import read_json, text_list
from biomamba.data.document import Reject
from biomamba.runtime.errors import DataError

TYPES = ("yesno", "factoid", "list", "summary")
_PIECE = re.compile(r"(.+?)[_:]\d+")  # the id of one snippet of a question


@dataclass(frozen=True)
class Question:
    """A question with its snippets and exact answers.

    Attributes:
        answers: Groups of texts that mean the same, as the file writes them.
        file: Name of the file.
    """

    id: str
    body: str
    snippets: Sequence[str]
    answers: Sequence[Sequence[str]]
    file: str

    @property
    def words(self) -> str:
        """The question in lower case with single spaces, to find it under another id."""
        return " ".join(self.body.lower().split())


def read_questions(paths: Sequence[Path], kind: str) -> tuple[list[Question], Counter[str]]:
    """Return the questions of one type, each once, and how many are of no use, by reason.

    Raises:
        DataError: A file is in neither layout, or in the form of SQuAD and not for factoids.
    """
    found: dict[str, Question] = {}
    rejects: Counter[str] = Counter()
    for path in paths:
        content = read_json(path)
        is_squad = isinstance(content, dict) and "data" in content
        if is_squad and kind != "factoid":
            raise DataError(f"{path} is in the form of SQuAD, which is for factoid questions alone")
        for question in _squad(content, path) if is_squad else _golden(content, path, kind):
            if isinstance(question, Reject):
                rejects[question.reason] += 1
            elif question.id in found:
                rejects["repeated id"] += 1
            else:
                found[question.id] = question
    return list(found.values()), rejects


def answer_groups(value: Any) -> list[list[str]] | None:
    """Return exact answers as groups of synonyms; None if they have another form.

    A text is one group, and so is each text of a flat list; empty texts are left out.
    """
    entries = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(entries, list):
        return None
    groups = [text_list(entry) for entry in entries]
    if None in groups or None in entries:
        return None
    filled = [[text for text in group if text.strip()] for group in groups if group]
    return [group for group in filled if group]


def _golden(content: Any, path: Path, kind: str) -> Iterator[Question | Reject]:
    questions = content.get("questions") if isinstance(content, dict) else None
    if not isinstance(questions, list):
        raise DataError(f"{path} is not BioASQ: it has no list 'questions' (nor 'data' of SQuAD)")
    for number, question in enumerate(questions, start=1):
        where = f"{path}: question {number}"
        if not isinstance(question, dict):
            raise DataError(f"{where} is not BioASQ: it must be an object")
        if question.get("type") not in TYPES:
            raise DataError(
                f"{where} has the type {question.get('type')!r}; allowed: {', '.join(TYPES)}"
            )
        if question["type"] == kind:
            yield _question(question, where, path.name)


def _question(question: dict[str, Any], where: str, file: str) -> Question | Reject:
    name, body = question.get("id"), question.get("body")
    if not isinstance(name, str) or not name or not isinstance(body, str):
        raise DataError(f"{where} is not BioASQ: id and body must be text")
    if not body.strip():
        return Reject("empty question", name)
    groups = answer_groups(question.get("exact_answer"))
    if groups is None:
        raise DataError(f"{where} is not BioASQ: exact_answer must be text or lists of text")
    if not groups:
        return Reject("no exact answer", name)
    return Question(name, body.strip(), _snippets(question, where), groups, file)


def _snippets(question: dict[str, Any], where: str) -> list[str]:
    snippets = question.get("snippets") or []
    if not isinstance(snippets, list) or not all(isinstance(each, dict) for each in snippets):
        raise DataError(f"{where} is not BioASQ: snippets must be a list of objects")
    texts = text_list([snippet.get("text") or "" for snippet in snippets])
    if texts is None:
        raise DataError(f"{where} is not BioASQ: the text of a snippet must be text")
    return _distinct(texts)


def _squad(content: Any, path: Path) -> Iterator[Question | Reject]:
    """Merge the rows of each question: one row is one snippet."""
    merged: dict[str, Question] = {}
    for name, body, snippet, answers in _squad_rows(content, path):
        one = Question(name, body, _distinct([snippet]), [_distinct(answers)], path.name)
        before = merged.setdefault(name, one)
        if before.words != one.words:
            raise DataError(f"{path}: two questions have the id {name}; give each its own")
        merged[name] = replace(
            before,
            snippets=_distinct([*before.snippets, *one.snippets]),
            answers=[_distinct([*before.answers[0], *one.answers[0]])],
        )
    for question in merged.values():
        if not question.body:
            yield Reject("empty question", question.id)
        else:
            yield question if question.answers[0] else Reject("no exact answer", question.id)


def _squad_rows(content: Any, path: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield id, question, snippet and answers of each row."""
    try:
        for paragraph in (each for entry in content["data"] for each in entry["paragraphs"]):
            for row in paragraph["qas"]:
                name, body, snippet = str(row["id"]), row["question"], paragraph["context"]
                answers = [answer["text"] for answer in row.get("answers") or []]
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
