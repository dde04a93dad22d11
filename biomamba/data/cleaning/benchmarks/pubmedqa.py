"""PubMedQA: yes/no/maybe questions about one abstract each, keyed by its PMID."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomamba.data.cleaning.benchmarks.item import Item, hash_files, read_json, text_list
from biomamba.data.raw_files import expand_files
from biomamba.runtime.errors import DataError

_TEXTS = ("QUESTION", "CONTEXTS", "LONG_ANSWER")


@dataclass(frozen=True)
class PubMedQA:
    """The labelled set as its authors publish it, `ori_pqal.json`.

    The contexts and the long answer together are the abstract; the question is mostly its title.

    Attributes:
        file: A JSON object from PMID to QUESTION, CONTEXTS and LONG_ANSWER.
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
            records = read_json(path)
            if not isinstance(records, dict) or not records:
                raise DataError(f"{path} is not PubMedQA: it must be an object keyed by PMID")
            for pmid, record in records.items():
                yield Item(pmid, _texts(record, f"{path}: record {pmid}"), pmids=[pmid])

    def _paths(self) -> list[Path]:
        return expand_files(self.file, [".json"])


def _texts(record: Any, where: str) -> list[str]:
    texts: list[str] = []
    for name in _TEXTS:
        found = text_list(record.get(name)) if isinstance(record, dict) else None
        if not found:
            raise DataError(f"{where} is not PubMedQA: {name} must be text; found none")
        texts += found
    return texts
