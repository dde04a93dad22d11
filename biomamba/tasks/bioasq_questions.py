"""Questions of one type of BioASQ task B, as its tasks ask them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomamba.data.cleaning.benchmarks import bioasq
from biomamba.data.cleaning.benchmarks.item import text_list
from biomamba.data.cleaning.words import match_key
from biomamba.data.document import Reject
from biomamba.runtime.errors import DataError
from biomamba.tasks.task_rows import MAX_BAD_FRACTION, RowCounts

TYPES = ("yesno", "factoid", "list", "summary")


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
    def key(self) -> str:
        """What is equal for the same question under another id, whatever its punctuation."""
        return match_key(self.body)


def read_questions(
    paths: Sequence[Path], kind: str, max_bad_fraction: float = MAX_BAD_FRACTION
) -> tuple[list[Question], Counter[str]]:
    """Return the questions of one type, each once, and how many are of no use, by reason.

    Raises:
        DataError: A file is in neither layout, or in the form of SQuAD and not for factoids, or
            more of the questions are damaged than max_bad_fraction.
    """
    found: dict[str, Question] = {}
    counts = RowCounts()
    for path in paths:
        for question in _of_kind(path, kind):
            counts.num_rows += 1
            if isinstance(question, Reject):
                counts.reject(question)
            elif question.id in found:
                counts.rejects["repeated id"] += 1
            else:
                found[question.id] = question
    counts.check(", ".join(path.name for path in paths), max_bad_fraction)
    return list(found.values()), counts.rejects


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


def _of_kind(path: Path, kind: str) -> Iterator[Question | Reject]:
    for question in bioasq.read_questions(path):
        if question.kind == bioasq.SQUAD and kind != "factoid":
            raise DataError(f"{path} is in the form of SQuAD, which is for factoid questions alone")
        if question.kind not in (*TYPES, bioasq.SQUAD):
            raise DataError(
                f"{question.where} has the type {question.kind!r}; allowed: {', '.join(TYPES)}"
            )
        if question.kind in (kind, bioasq.SQUAD):
            yield _question(question, path.name)


def _question(question: bioasq.BioASQQuestion, file: str) -> Question | Reject:
    if not question.body.strip():
        return Reject("empty question", question.id)
    groups = answer_groups(question.exact_answer)
    if groups is None:
        raise DataError(
            f"{question.where} is not BioASQ: exact_answer must be text or lists of text"
        )
    if not groups:
        return Reject("no exact answer", question.id)
    return Question(question.id, question.body.strip(), question.snippets, groups, file)
