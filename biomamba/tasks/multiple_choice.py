"""Multiple choice: the option with the largest likelihood behind its question is the answer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from biomamba.data.document import SplitRule, document_key
from biomamba.data.rows import RowSource
from biomamba.metrics.calibration import calibration_measures
from biomamba.metrics.measure import Measure, proportion
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_whole
from biomamba.tasks.choice_rows import LETTERS, Choice, ChoiceColumns, read_choices
from biomamba.tasks.item import Item, Items
from biomamba.tasks.label_figures import in_order
from biomamba.tasks.prediction import Prediction
from biomamba.tasks.prompt import Prompt
from biomamba.tasks.task import ChooseOption, Task, check_access, check_training_split
from biomamba.tasks.task_rows import MAX_BAD_FRACTION, check_bad_fraction

NORMALISE = ("bytes", "tokens", "none")
WRITTEN_AS = ("text", "letter")


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Task):
    """Questions with options, from local files or from the hub.

    The parts of a prompt are `question` and `options` (one per line behind its letter).
    In winogrande the options stand inside the question and what is scored follows them
    (`Item.option_parts`).

    Attributes:
        test: Rows of the test split; the validation file of a set whose test answers are secret.
        train: Rows to train on; null: none.
        val: Rows to select with; null: those of `train` that a hash of the id chooses.
        val_permille: Thousandths of the ids of `train` that are `val` if val is null.
        columns: Which columns hold what.
        written_as: The answer is the `text` of an option, or its `letter`.
        normalise: By what the log-probability of an option is divided: `bytes`, `tokens` or `none`.
        max_bad_fraction: A split with more damaged rows than this is refused.
    """

    test: RowSource
    columns: ChoiceColumns
    prompt: Prompt
    name: str
    protocol: str
    train: RowSource | None = None
    val: RowSource | None = None
    val_permille: int = 50
    written_as: str = "text"
    normalise: str = "bytes"
    access: str = "open"
    max_bad_fraction: float = MAX_BAD_FRACTION

    def __post_init__(self) -> None:
        check_access(self.access)
        check_bad_fraction(self.max_bad_fraction, self.name)
        for name, value, allowed in (
            ("written_as", self.written_as, WRITTEN_AS),
            ("normalise", self.normalise, NORMALISE),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
        check_whole("val_permille", self.val_permille, at_least=0, at_most=999)
        if self.columns.form == "winogrande" and (self.written_as, self.normalise) != (
            "text",
            "none",
        ):
            raise ConfigError(
                "form winogrande scores one ending behind each option; set written_as to text and "
                "normalise to none"
            )

    @property
    def answer(self) -> ChooseOption:
        """One of the options of the item."""
        return ChooseOption(self.normalise)

    @property
    def files(self) -> Mapping[str, str]:
        """Fingerprint of every file, by split and name."""
        return {
            f"{split}/{name}": digest
            for split, rows in self._sources.items()
            if rows is not None
            for name, digest in _fingerprints(rows).items()
        }

    def split_files(self, split: str) -> Mapping[str, str]:
        """Fingerprints of the files of a split; `val` may be rows of `train`."""
        rows = self._sources[split] or (self.train if split == "val" else None)
        return {} if rows is None else _fingerprints(rows)

    def split_rule(self, split: str) -> str:
        """Return the share of `train` that is `val`, where no file is."""
        is_shared = split != "test" and self.val is None
        return f"val_permille {self.val_permille}" if is_shared else ""

    @property
    def _sources(self) -> Mapping[str, RowSource | None]:
        return {"train": self.train, "val": self.val, "test": self.test}

    def items(self, split: str) -> Items:
        """Return `train` or `val`; questions of the test split are left out and counted."""
        check_training_split(split)
        later = self._read(self.test)[0]
        if self.val is None:
            choices, rejects = self._without(self._read(self.train), later)
            rule = SplitRule(val_permille=self.val_permille, test_permille=0)
            chosen = [each for each in choices if rule.split_of(document_key(each.id)) == split]
            return Items([self._item(choice) for choice in chosen], rejects)
        choices, rejects = self._without(self._read(self.val), later)
        if split == "train":
            choices, rejects = self._without(self._read(self.train), [*later, *choices])
        return Items([self._item(choice) for choice in choices], rejects)

    def held_out(self) -> Items:
        """Return the test questions.

        Raises:
            DataError: None has a known answer.
        """
        choices, rejects = self._read(self.test)
        if not choices:
            raise DataError(
                f"no row of the test split of {self.name} can be asked ({dict(rejects)}); where "
                "answers are secret, name the validation file"
            )
        return Items([self._item(choice) for choice in choices], rejects)

    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        """Return accuracy, and calibration where likelihoods are not divided by lengths."""
        ordered = in_order(items, predictions)
        truths = [item.references[0][0] for item in items]
        is_plain = self.normalise == "none"
        scores = [prediction.scores if is_plain else {} for prediction in ordered]
        pairs = list(zip(items, ordered, strict=True))
        hits = [item.references[0][0] == given.text for item, given in pairs]
        unknown = [given.text not in item.options for item, given in pairs]
        return [
            proportion("accuracy", np.array(hits, dtype=np.bool_)),
            proportion(
                "unparsable_ratio", np.array(unknown, dtype=np.bool_), higher_is_better=False
            ),
            *calibration_measures(truths, scores),
        ]

    def _read(self, rows: RowSource | None) -> tuple[list[Choice], Counter[str]]:
        if rows is None:
            return [], Counter()
        return read_choices(rows, self.columns, self.max_bad_fraction)

    def _without(
        self, found: tuple[list[Choice], Counter[str]], later: Sequence[Choice]
    ) -> tuple[list[Choice], Counter[str]]:
        """Leave out and count the questions that a later split has, also in another spelling.

        Raises:
            DataError: Another question of a later split has the same id.
        """
        choices, rejects = found
        keys = {choice.match_key for choice in later}
        ids = {choice.id for choice in later}
        kept = [choice for choice in choices if choice.match_key not in keys]
        shared = [choice.id for choice in kept if choice.id in ids]
        if shared:
            raise DataError(
                f"{len(shared)} ids of {self.name} stand for different questions in two splits, "
                f"the first is {shared[0]}: check the files, or set columns.id to null"
            )
        if len(kept) < len(choices):
            rejects["question of another split"] += len(choices) - len(kept)
        return kept, rejects

    def _item(self, choice: Choice) -> Item:
        options = list(choice.options)
        lettered = "\n".join(f"{LETTERS[n]}. {option}" for n, option in enumerate(options))
        parts = {"question": choice.question, "options": lettered}
        option_parts: list[dict[str, str]] = []
        if self.written_as == "letter":
            options = list(LETTERS[: len(options)])
        target = options[choice.right]
        if choice.ending:
            option_parts = [{"question": choice.question + option} for option in options]
            parts |= option_parts[choice.right]
        return Item(
            id=choice.id,
            parts=parts,
            target=choice.ending or target,
            references=[[target]],
            options=options,
            option_parts=option_parts,
        )


def _fingerprints(rows: RowSource) -> dict[str, str]:
    return {shard.name: shard.fingerprint().removeprefix("sha256:") for shard in rows.shards()}
