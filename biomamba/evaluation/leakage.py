"""Count the items whose prompt holds what is to be written, and those that training has seen.

Prompts are searched in three ways. What the sections of a note hold by the parser of the task is
looked for in the prompt, and so is the target. And the words of headings whose sections are
withheld are counted without the parser: a heading that it does not recognize leaves its section in
the prompt, where only such a count can see it. So the search for headings shares no code and no
spelling with biomamba/tasks.

Only counts leave this module: no text, no id of an item.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from biomamba.data.cleaning.ngrams import normalised
from biomamba.evaluation.task_split import TaskSplit
from biomamba.metrics.overlap import covered, grams_of, longest_shared_run, words_of
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_whole
from biomamba.tasks.clinical_notes import AuditedItem, WritingTask
from biomamba.tasks.prompt import Item

SPLITS = ("train", "val", "test")
TRAIN = "train"
TARGET = "target"
# Other words for the headings of withheld sections, in lower case without punctuation.
_OTHER_WORDS: Mapping[str, Sequence[str]] = {
    "brief hospital course": ("hospital course", "course in hospital", "course in the hospital"),
    "discharge diagnosis": ("discharge diagnoses", "diagnosis at discharge", "final diagnosis"),
    "discharge medications": ("discharge medication", "discharge meds", "medications on discharge"),
    "discharge condition": ("condition at discharge", "condition on discharge"),
    "discharge instructions": ("discharge instruction", "instructions at discharge"),
    "followup instructions": ("follow up instructions", "follow up instruction"),
}


@dataclass(frozen=True, kw_only=True)
class LeakageSettings:
    """What counts as a leak.

    Attributes:
        splits: Which splits are audited.
        run_words: So many words in a row in prompt and withheld text are a leak.
        min_words: A withheld text with fewer words is in many prompts by chance: it is counted
            apart and never as a leak.
    """

    splits: Sequence[str] = SPLITS
    run_words: int = 13
    min_words: int = 5

    def __post_init__(self) -> None:
        odd = sorted(set(self.splits) - set(SPLITS))
        if odd or not self.splits:
            raise ConfigError(f"splits of the audit are {odd or 'empty'}; use {', '.join(SPLITS)}")
        check_whole("min_words", self.min_words)
        check_whole("run_words", self.run_words, at_least=self.min_words)


@dataclass(kw_only=True)
class TextLeaks:
    """What became of the withheld texts of one name, as a section or the reference.

    Attributes:
        num_texts: Items that have such a text.
        num_short: Those with too few words to tell.
        num_whole: Those whose text is in the prompt from its first word to its last.
        num_with_runs: Those of which the prompt holds the whole or a long run of words.
        num_words: Words of all that are not short.
        num_leaked_words: Those of them that are in a run that the prompt holds.
    """

    num_texts: int = 0
    num_short: int = 0
    num_whole: int = 0
    num_with_runs: int = 0
    num_words: int = 0
    num_leaked_words: int = 0

    def add(self, text: str, prompt: Sequence[str], settings: LeakageSettings) -> bool:
        """Count one text; return whether the prompt, as words, leaks it."""
        words = _words(text)
        self.num_texts += 1
        if len(words) < settings.min_words:
            self.num_short += 1
            return False
        # A whole text may be shorter than a run: then it is a run by itself.
        length = min(settings.run_words, len(words))
        is_leaked = covered(words, set(grams_of(prompt, length)), length)
        num_leaked = sum(is_leaked)
        self.num_words += len(words)
        self.num_leaked_words += num_leaked
        self.num_whole += num_leaked == len(words) and longest_shared_run(words, prompt) == len(
            words
        )
        self.num_with_runs += num_leaked > 0
        return num_leaked > 0


@dataclass(kw_only=True)
class SplitLeakage:
    """The audit of one split of a task.

    Attributes:
        num_items: Items audited.
        num_leaking: Those whose prompt leaks one of the texts at least.
        texts: By name of the withheld text.
        num_with_headings: Items whose prompt has the words of the heading of a withheld section, as
            a heading that was not recognized, a reference to it, or words of a sentence.
        headings: Those items by heading.
        num_prompts_in_train: Items whose prompt is, word for word, that of a training item.
        num_targets_in_train: Those whose reference is, if it is not short.
    """

    num_items: int = 0
    num_leaking: int = 0
    texts: dict[str, TextLeaks] = field(default_factory=dict)
    num_with_headings: int = 0
    headings: dict[str, int] = field(default_factory=dict)
    num_prompts_in_train: int = 0
    num_targets_in_train: int = 0


def audit_leakage(task: WritingTask, settings: LeakageSettings) -> dict[str, SplitLeakage]:
    """Return the counts of each split of a task."""
    train = TaskSplit(task, TRAIN).items if set(settings.splits) - {TRAIN} else []
    prompts = {_fingerprint(task.source(item)) for item in train}
    targets = {_fingerprint(item.target) for item in train}
    found = {}
    for split in settings.splits:
        items = TaskSplit(task, split).items
        leakage = split_leakage(task, task.audited(items), settings)
        if split != TRAIN:
            leakage.num_prompts_in_train = _known(map(task.source, items), prompts, 1)
            leakage.num_targets_in_train = _known(_targets(items), targets, settings.min_words)
        found[split] = leakage
    return found


def split_leakage(
    task: WritingTask, cases: Iterable[AuditedItem], settings: LeakageSettings
) -> SplitLeakage:
    """Return what the prompts of items hold of what they must not."""
    found = SplitLeakage()
    for case in cases:
        source = task.source(case.item)
        prompt = _words(source)
        withheld = dict(case.withheld)
        if case.item.target not in withheld.values():
            withheld[TARGET] = case.item.target
        leaks = [
            found.texts.setdefault(name, TextLeaks()).add(text, prompt, settings)
            for name, text in withheld.items()
        ]
        headings = headings_in(source, task.withheld_headings)
        for name in headings:
            found.headings[name] = found.headings.get(name, 0) + 1
        found.num_items += 1
        found.num_leaking += any(leaks)
        found.num_with_headings += bool(headings)
    return found


def headings_in(text: str, names: Sequence[str]) -> list[str]:
    """Return the headings whose words are in a text in a row, whatever is between the words.

    White space of any kind, line breaks, punctuation, invisible characters and case make no
    difference.
    """
    words = f" {' '.join(_words(text))} "
    return [
        name
        for name in names
        if any(
            f" {' '.join(_words(spelling))} " in words
            for spelling in (name, *_OTHER_WORDS.get(name, ()))
        )
    ]


def leakage_record(task: WritingTask, found: dict[str, SplitLeakage]) -> dict[str, Any]:
    """Return an audit as values of JSON, with what decided it."""
    return {
        "task": task.name,
        "protocol": task.protocol,
        "prompt": {"name": task.prompt.name, "fingerprint": task.prompt.fingerprint},
        "files": dict(task.files),
        "splits": {split: asdict(leakage) for split, leakage in found.items()},
    }


def _targets(items: Iterable[Item]) -> Iterable[str]:
    return (item.target for item in items)


def _known(texts: Iterable[str], known: Collection[bytes], min_words: int) -> int:
    return sum(_fingerprint(text) in known for text in texts if len(_words(text)) >= min_words)


def _fingerprint(text: str) -> bytes:
    return sha256(" ".join(_words(text)).encode()).digest()


def _words(text: str) -> list[str]:
    """Return the words of a text; soft hyphens and other invisible characters cut none of them."""
    return words_of(normalised(text))
