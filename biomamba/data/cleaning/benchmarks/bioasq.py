"""BioASQ task B: questions with the PubMed articles and snippets that answer them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomamba.data.cleaning.benchmarks.item import Item, hash_files, read_json, text_list
from biomamba.data.raw_files import expand_files
from biomamba.runtime.errors import ConfigError, DataError

# http://www.ncbi.nlm.nih.gov/pubmed/123 and https://pubmed.ncbi.nlm.nih.gov/123/
_PMID = re.compile(r"pubmed(?:\.ncbi\.nlm\.nih\.gov)?/(\d+)")


@dataclass(frozen=True)
class BioASQ:
    """Golden or training files of any year; unknown keys are ignored.

    Attributes:
        files: JSON files `{"questions": [...]}`; `*` in a name stands for all that match.
    """

    files: list[str]

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("files of BioASQ is empty; name at least one JSON file")

    def fingerprints(self) -> dict[str, str]:
        """Return the hashes of the files by name."""
        return hash_files(self._paths())

    def settings(self) -> dict[str, Any]:
        """Return the layout; the bytes of the files say the rest."""
        return {"layout": type(self).__name__}

    def items(self) -> Iterator[Item]:
        """Iterate over the questions: body, snippets and ideal answers, and the PMIDs of all."""
        for path in self._paths():
            content = read_json(path)
            questions = content.get("questions") if isinstance(content, dict) else None
            if not isinstance(questions, list) or not questions:
                raise DataError(f"{path} is not BioASQ: it has no list 'questions'")
            for number, question in enumerate(questions, start=1):
                yield _item(question, f"{path}: question {number}")

    def _paths(self) -> list[Path]:
        return [path for entry in self.files for path in expand_files(entry, [".json"])]


def _item(question: Any, where: str) -> Item:
    if not isinstance(question, dict):
        raise DataError(f"{where} is not BioASQ: it must be an object")
    snippets = question.get("snippets") or []
    if not isinstance(snippets, list) or not all(isinstance(s, dict) for s in snippets):
        raise DataError(f"{where} is not BioASQ: snippets must be a list of objects")
    name, body = question.get("id"), question.get("body")
    documents = text_list(question.get("documents"))
    passages = text_list([snippet.get("text") for snippet in snippets])
    answers = text_list(question.get("ideal_answer"))
    if not isinstance(name, str) or not isinstance(body, str):
        raise DataError(f"{where} is not BioASQ: id and body must be text")
    if documents is None or passages is None or answers is None:
        raise DataError(
            f"{where} is not BioASQ: documents, snippets and ideal_answer must hold text"
        )
    links = [*documents, *(str(snippet.get("document")) for snippet in snippets)]
    pmids = [found[1] for link in links if (found := _PMID.search(link))]
    return Item(name, [body, *passages, *answers], pmids=sorted(set(pmids)))
