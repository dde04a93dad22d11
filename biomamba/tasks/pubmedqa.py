"""PubMedQA: yes/no/maybe questions about one abstract each, on the official test questions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomamba.data.cleaning.benchmarks.item import read_json, text_list
from biomamba.data.document import Reject, document_key
from biomamba.data.rows import LocalRows
from biomamba.metrics.measure import Measure
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_whole
from biomamba.tasks.item import Item, Items
from biomamba.tasks.label_figures import label_figures
from biomamba.tasks.prediction import Prediction
from biomamba.tasks.prompt import Prompt
from biomamba.tasks.task import ChooseLabel, Task, check_access, check_training_split
from biomamba.tasks.task_files import file_hashes, named_files

LABELS = ("yes", "no", "maybe")
NUM_FOLDS = 10
QUESTION_ONLY = "-question-only"
# Labels and number of test questions; `own` is for other questions in the same layout.
PROTOCOLS: Mapping[str, tuple[Sequence[str], int | None]] = {
    "pqal-500-3way": (LABELS, 500),
    "pqal-2way-445": (LABELS[:2], 445),
    "own-3way": (LABELS, None),
    "own-2way": (LABELS[:2], None),
}


@dataclass(frozen=True, kw_only=True)
class PubMedQA(Task):
    """The expert-labelled questions, as their authors publish them or in the layout of the hub.

    The questions of test_file are the test split. The others are dealt to ten folds, by a hash of
    their ids within each label; one fold is `val`, the other nine are `train`.

    Deviation: the paper selects on a random fifth of all 1,000 questions and reports it; here the
    official test questions are in neither training nor selection.

    Attributes:
        file: `ori_pqal.json`, or .parquet or .jsonl rows in the layout of `qiaojin/PubMedQA`.
        test_file: `test_ground_truth.json`, an object from PMID to label.
        fold: Which of the ten folds is `val`, 0 to 9.
        protocol: `pqal-500-3way`, `pqal-2way-445` (without the questions whose answer is maybe),
            `own-3way` or `own-2way`; followed by `-question-only` if the prompt has no context.
    """

    file: str
    test_file: str
    prompt: Prompt
    fold: int = 0
    name: str = "pubmedqa"
    protocol: str = "pqal-500-3way"
    access: str = "open"

    def __post_init__(self) -> None:
        check_access(self.access)
        if self._base not in PROTOCOLS:
            raise ConfigError(
                f"protocol is {self.protocol!r}; allowed: {', '.join(PROTOCOLS)}, with or without "
                f"{QUESTION_ONLY}"
            )
        if self.protocol.endswith(QUESTION_ONLY) == ("context" in self.prompt.parts):
            raise ConfigError(
                f"protocol is {self.protocol!r} and prompt {self.prompt.name} has the parts "
                f"{self.prompt.parts}: {QUESTION_ONLY} is for a prompt without context"
            )
        check_whole("fold", self.fold, at_least=0, at_most=NUM_FOLDS - 1)

    @property
    def answer(self) -> ChooseLabel:
        """One of the labels of the protocol."""
        return ChooseLabel(PROTOCOLS[self._base][0])

    @property
    def files(self) -> Mapping[str, str]:
        """sha256 of both files."""
        return file_hashes([*self._paths(), *named_files([self.test_file], [".json"])])

    def items(self, split: str) -> Items:
        """Return `train` or `val`, neither with a test question."""
        check_training_split(split)
        items, rejects, _ = self._split()
        by_label = sorted(items, key=lambda item: (LABELS.index(item.target), _key(item)))
        fold = {item.id for item in by_label[self.fold :: NUM_FOLDS]}
        chosen = [item for item in items if (item.id in fold) == (split == "val")]
        return Items(self._of_protocol(chosen, rejects), rejects)

    def held_out(self) -> Items:
        """Return the test questions.

        Raises:
            DataError: They are not as many as the protocol says.
        """
        _, _, items = self._split()
        rejects: Counter[str] = Counter()
        chosen = self._of_protocol(items, rejects)
        expected = PROTOCOLS[self._base][1]
        if expected not in (None, len(chosen)):
            raise DataError(
                f"{self.test_file} gives {len(chosen)} test questions, protocol {self.protocol} "
                f"has {expected}: fetch the official file, or name protocol own-3way or own-2way"
            )
        return Items(chosen, rejects)

    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        """Return accuracy, macro-F1 and what stands behind them."""
        return label_figures(self.answer.labels, items, predictions)

    @property
    def _base(self) -> str:
        return self.protocol.removesuffix(QUESTION_ONLY)

    def _paths(self) -> list[Path]:
        return named_files([self.file], [".json", ".jsonl", ".parquet"])

    def _of_protocol(self, items: Sequence[Item], rejects: Counter[str]) -> list[Item]:
        """Leave out the items whose label the protocol lacks, and count them."""
        chosen = [item for item in items if item.label in self.answer.labels]
        if len(chosen) < len(items):
            rejects["label of no interest to the protocol"] = len(items) - len(chosen)
        return chosen

    def _split(self) -> tuple[list[Item], Counter[str], list[Item]]:
        """Return the items that are no test questions, rejects among these, the test questions."""
        records = [record for path in self._paths() for record in _records(path)]
        truths = _ground_truth(named_files([self.test_file], [".json"])[0])
        found: dict[str, Item] = {}
        rejects: Counter[str] = Counter()
        for name, record, where in records:
            item = _item(name, record, where)
            if isinstance(item, Reject) and name in truths:
                raise DataError(f"{where} is a test question and of no use: {item.reason}")
            if isinstance(item, Reject):
                rejects[item.reason] += 1
            elif name in found:
                raise DataError(f"{where} repeats the PMID {name}; name each file once")
            else:
                found[name] = item
        odd = [name for name, truth in truths.items() if name not in found]
        if odd:
            raise DataError(
                f"{self.test_file} names {len(odd)} PMIDs that {self.file} lacks, the first is "
                f"{odd[0]}: the files must be of one release"
            )
        wrong = [name for name, truth in truths.items() if found[name].label != truth]
        if wrong:
            raise DataError(
                f"{self.test_file} has another label than {self.file} for {len(wrong)} PMIDs, the "
                f"first is {wrong[0]}: the files must be of one release"
            )
        others = [item for name, item in found.items() if name not in truths]
        return others, rejects, [found[name] for name in truths]


def _key(item: Item) -> int:
    return document_key(item.id)


def _ground_truth(path: Path) -> dict[str, str]:
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} is no ground truth of PubMedQA: it must be an object of labels")
    odd = sorted({str(label) for label in content.values()} - set(LABELS))
    if odd:
        raise DataError(f"{path} has the labels {odd}; allowed: {', '.join(LABELS)}")
    return content


def _records(path: Path) -> list[tuple[str, dict[str, Any], str]]:
    """Return PMID, record and place of each question, all in the layout of ori_pqal.json."""
    if path.suffix != ".json":
        shard = LocalRows([str(path)]).shards()[0]
        return [_hub_record(row, f"{path}: row {n}") for n, row in enumerate(shard.rows(), 1)]
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} is not PubMedQA: it must be an object keyed by PMID")
    return [(name, record, f"{path}: record {name}") for name, record in content.items()]


def _hub_record(row: Any, where: str) -> tuple[str, dict[str, Any], str]:
    if isinstance(row, Reject) or not isinstance(row.get("context"), dict):
        raise DataError(f"{where} is not PubMedQA: it needs a context of contexts and labels")
    context = row["context"]
    names = {"QUESTION": "question", "final_decision": "final_decision"}
    record = {name: row.get(column) for name, column in names.items()}
    record |= {"CONTEXTS": context.get("contexts"), "LABELS": context.get("labels")}
    return str(row.get("pubid")), record, where


def _item(name: str, record: Any, where: str) -> Item | Reject:
    """Turn a record into an item.

    Raises:
        DataError: It is not of the layout.
    """
    if not isinstance(record, dict):
        raise DataError(f"{where} is not PubMedQA: it must be an object")
    question, label = record.get("QUESTION"), record.get("final_decision")
    contexts, sections = text_list(record.get("CONTEXTS")), text_list(record.get("LABELS"))
    if not isinstance(question, str) or not isinstance(label, str):
        raise DataError(f"{where} is not PubMedQA: QUESTION and final_decision must be text")
    if contexts is None or sections is None or len(contexts) != len(sections):
        raise DataError(f"{where} is not PubMedQA: CONTEXTS and LABELS must be lists of one length")
    if not question.strip():
        return Reject("empty question", name)
    if label not in LABELS:
        return Reject("unknown label", name)
    context = _context(sections, contexts)
    if not context:
        return Reject("empty context", name)
    year = record.get("YEAR")
    return Item(
        id=name,
        parts={"question": question.strip(), "context": context},
        target=label,
        label=label,
        facts={"year": year} if isinstance(year, str) and year else {},
    )


def _context(sections: Sequence[str], texts: Sequence[str]) -> str:
    """Join the sections that have a text, each behind its label."""
    pairs = [(name.strip(), text.strip()) for name, text in zip(sections, texts, strict=True)]
    return "\n\n".join(f"{name}: {text}" if name else text for name, text in pairs if text)
