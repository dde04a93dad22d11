"""PubMedQA: yes/no/maybe questions about one abstract each, on the official test questions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from biomamba.data.cleaning.benchmarks import SUFFIXES, PubMedQARecord, read_records
from biomamba.data.cleaning.ngrams import match_key
from biomamba.data.document import Reject, document_key
from biomamba.data.rows import read_json_file
from biomamba.metrics.measure import Measure
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_whole
from biomamba.tasks.labels import label_figures
from biomamba.tasks.prompt import Item, Items, Prompt
from biomamba.tasks.task import (
    MAX_BAD_FRACTION,
    ChooseLabel,
    Prediction,
    RowCounts,
    Task,
    check_access,
    check_bad_fraction,
    check_training_split,
    declared_label,
    file_hashes,
    named_files,
)

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
        max_bad_fraction: A file with more damaged rows than this is refused.
    """

    file: str
    test_file: str
    prompt: Prompt
    fold: int = 0
    name: str = "pubmedqa"
    protocol: str = "pqal-500-3way"
    access: str = "open"
    max_bad_fraction: float = MAX_BAD_FRACTION

    def __post_init__(self) -> None:
        check_access(self.access)
        check_bad_fraction(self.max_bad_fraction, self.name)
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

    def split_files(self, split: str) -> Mapping[str, str]:  # noqa: ARG002 - one file has all
        """Return sha256 of the file of all questions."""
        return file_hashes(self._paths())

    def split_rule(self, split: str) -> str:
        """Return the hash of the test file, and of `train` and `val` the fold too."""
        (digest,) = file_hashes(named_files([self.test_file], [".json"])).values()
        return f"test questions {digest}" + ("" if split == "test" else f", fold {self.fold}")

    def items(self, split: str) -> Items:
        """Return `train` or `val`, neither with a test question.

        A question of the test, or of `val`, that is in the file under another PMID too is left
        out of what comes before it, and counted.
        """
        check_training_split(split)
        items, rejects, tested = self._split()
        items = _without(items, tested, "question of the test under another PMID", rejects)
        by_label = sorted(items, key=lambda item: (LABELS.index(item.target), _key(item)))
        fold = {item.id for item in by_label[self.fold :: NUM_FOLDS]}
        val = [item for item in items if item.id in fold]
        train = [item for item in items if item.id not in fold]
        if split == "val":
            return Items(self._of_protocol(val, rejects), rejects)
        train = _without(train, val, "question of val under another PMID", rejects)
        return Items(self._of_protocol(train, rejects), rejects)

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
        """Return accuracy, macro-F1 and what is behind them."""
        return label_figures(self.answer.labels, items, predictions)

    @property
    def _base(self) -> str:
        return self.protocol.removesuffix(QUESTION_ONLY)

    def _paths(self) -> list[Path]:
        return named_files([self.file], SUFFIXES)

    def _of_protocol(self, items: Sequence[Item], rejects: Counter[str]) -> list[Item]:
        """Leave out the items whose label the protocol lacks, and count them."""
        chosen = [item for item in items if item.label in self.answer.labels]
        if len(chosen) < len(items):
            rejects["label of no interest to the protocol"] = len(items) - len(chosen)
        return chosen

    def _split(self) -> tuple[list[Item], Counter[str], list[Item]]:
        """Return the items that are no test questions, rejects among these, the test questions."""
        truths = _ground_truth(named_files([self.test_file], [".json"])[0])
        found: dict[str, Item] = {}
        counts = RowCounts()
        for record in (each for path in self._paths() for each in read_records(path)):
            counts.num_rows += 1
            item = record if isinstance(record, Reject) else _item(record)
            if isinstance(item, Reject):
                if item.id in truths:
                    raise DataError(f"test question {item.id} is of no use: {item.reason}")
                counts.reject(item)
            elif item.id in found:
                raise DataError(f"{self.file} repeats the PMID {item.id}; name each file once")
            else:
                found[item.id] = item
        counts.check(self.file, self.max_bad_fraction)
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
        return others, counts.rejects, [found[name] for name in truths]


def _key(item: Item) -> int:
    return document_key(item.id)


def _ground_truth(path: Path) -> dict[str, str]:
    content = read_json_file(path)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} is no ground truth of PubMedQA: it must be an object of labels")
    odd = sorted({str(label) for label in content.values()} - set(LABELS))
    if odd:
        raise DataError(f"{path} has the labels {odd}; allowed: {', '.join(LABELS)}")
    return content


def _without(
    items: Sequence[Item], later: Sequence[Item], reason: str, rejects: Counter[str]
) -> list[Item]:
    """Leave out and count the items whose question is one of a later split."""
    keys = {match_key(item.parts["question"]) for item in later}
    kept = [item for item in items if match_key(item.parts["question"]) not in keys]
    if len(kept) < len(items):
        rejects[reason] += len(items) - len(kept)
    return kept


def _item(record: PubMedQARecord) -> Item | Reject:
    """Turn a record into an item.

    Raises:
        DataError: It is not of the layout, or has a label that PubMedQA does not declare.
    """
    if record.sections is None:
        raise DataError(
            f"{record.where} is not PubMedQA: CONTEXTS and LABELS must be lists of one length"
        )
    label = declared_label(record.decision, LABELS, record.where, key="final_decision")
    if not record.question.strip():
        return Reject("empty question", record.pmid)
    context = _context(record.sections, record.contexts)
    if not context:
        return Reject("empty context", record.pmid)
    return Item(
        id=record.pmid,
        parts={"question": record.question.strip(), "context": context},
        target=label,
        label=label,
        facts={"year": record.year} if record.year else {},
    )


def _context(sections: Sequence[str], texts: Sequence[str]) -> str:
    """Join the sections that have a text, each after its label."""
    pairs = [(name.strip(), text.strip()) for name, text in zip(sections, texts, strict=True)]
    return "\n\n".join(f"{name}: {text}" if name else text for name, text in pairs if text)
