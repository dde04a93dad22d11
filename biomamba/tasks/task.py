"""What every downstream task offers.

`items` gives what may be trained on and selected with; `held_out` the test split, which only
biomamba/evaluation may ask for (tests/test_held_out.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from biomamba.metrics.measure import Measure
from biomamba.runtime.errors import ConfigError
from biomamba.tasks.item import Item, Items
from biomamba.tasks.prediction import Prediction
from biomamba.tasks.prompt import Prompt

ACCESS = ("open", "restricted")
TRAINING_SPLITS = ("train", "val")


@dataclass(frozen=True)
class ChooseLabel:
    """The answer is one of the labels of the task, by likelihood or by generation."""

    labels: Sequence[str]


@dataclass(frozen=True)
class ChooseOption:
    """The answer is one of the options of the item, by likelihood per byte (`normalise`)."""

    normalise: str = "bytes"


@dataclass(frozen=True)
class WriteText:
    """The answer is a text of at most max_new_tokens, ended by the model or by a stop text.

    num_candidates: The n best answers of a beam are wanted; 1 for the best one only.
    """

    max_new_tokens: int
    stop: Sequence[str] = ()
    num_candidates: int = 1


Answer = ChooseLabel | ChooseOption | WriteText


class Task(ABC):
    """Items, how they are put to a model, and how answers are measured.

    Subclasses are frozen keyword dataclasses: their fields are the keys of conf/task/<name>.yaml.

    Attributes:
        name: Name of the task in tables and files.
        protocol: Which published protocol the figures follow, as `pqal-500-3way`; stands beside
            every figure.
        prompt: How an item is put to a model.
        access: `restricted` keeps every text of the items out of logs, exceptions, event files and
            result files.
    """

    name: str
    protocol: str
    prompt: Prompt
    access: str

    @property
    @abstractmethod
    def answer(self) -> Answer:
        """What kind of answer is wanted."""

    @abstractmethod
    def items(self, split: str) -> Items:
        """Return the items of `train` or `val`.

        Raises:
            ConfigError: Another split is asked for.
            DataError: A file is missing or not of the layout of the task.
        """

    @abstractmethod
    def held_out(self) -> Items:
        """Return the test split; of biomamba/evaluation only."""

    @abstractmethod
    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        """Return the figures of predictions, one for every item, in the same order.

        The first measure is the main one of the task.
        """

    @property
    @abstractmethod
    def files(self) -> Mapping[str, str]:
        """sha256 of every file of the task by its name: its data fingerprint."""

    def split_files(self, split: str) -> Mapping[str, str]:  # noqa: ARG002 - not known here
        """Return the sha256 of the files that hold the texts of `train`, `val` or `test`, by name.

        They are compared with the files whose items were kept out of training data. All files of
        the task, where it does not say more.
        """
        return self.files

    def split_rule(self, split: str) -> str:  # noqa: ARG002 - most splits are whole files
        """Return what decides beside the files which items a split has; empty if nothing does."""
        return ""


def check_training_split(split: str) -> None:
    """Raise ConfigError unless a split may be trained on or selected with."""
    if split not in TRAINING_SPLITS:
        raise ConfigError(f"split is {split!r}; allowed: {', '.join(TRAINING_SPLITS)}")


def check_access(access: str) -> None:
    """Raise ConfigError unless an access is known."""
    if access not in ACCESS:
        raise ConfigError(f"access is {access!r}; allowed: {', '.join(ACCESS)}")
