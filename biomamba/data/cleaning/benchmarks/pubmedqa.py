"""PubMedQA: yes/no/maybe questions about one abstract each, keyed by its PMID.

`read_records` is the one reader of its files, for what is kept out of training and for the task.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomamba.data.cleaning.benchmarks.item import (
    Item,
    hash_files,
    pmids_of,
    text_list,
)
from biomamba.data.document import Reject
from biomamba.data.raw_files import expand_files
from biomamba.data.rows import LocalRows, with_columns
from biomamba.data.text_files import read_json_file
from biomamba.runtime.errors import DataError

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
