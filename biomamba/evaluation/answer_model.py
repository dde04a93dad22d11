"""The interface of models that answer task items, their responses, and the log of responses.

Prompts come from `Prompt.encode` with the tokenizer of the model that is asked. The model itself
puts before them what its documents start with (our models: the end-of-document token).
"""

import fcntl
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import write_text
from biomamba.runtime.input_files import MAX_TABLE_BYTES, loads, read_text
from biomamba.tasks.prompt import EncodedPrompt, PromptTokenizer
from biomamba.tasks.task import ANSWERED, WriteText

POOLINGS = ("last", "mean", "max")


@dataclass(frozen=True)
class ScoreRequest:
    """A prompt and the answers to be scored after it, as ids without special tokens."""

    prompt_ids: Sequence[int]
    answers: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Written:
    """What a model wrote after a prompt.

    Attributes:
        candidates: The answers, best first, without what follows a stop text; at least one.
        stop_reason: Why the best one ended: `eos`, `stop` (a stop text) or `length`.
    """

    candidates: Sequence[str]
    stop_reason: str


class AnswerTokenizer(PromptTokenizer, Protocol):
    """The tokenizer of a model, and what tells it from another one."""

    @property
    def fingerprint(self) -> str:
        """sha256 of what decides its ids."""

    @property
    def vocab_size(self) -> int:
        """Number of its ids."""


@runtime_checkable
class JoiningTokenizer(Protocol):
    """A tokenizer that may write an answer otherwise after a prompt than alone."""

    def join(self, prompt: str, answers: Sequence[str]) -> ScoreRequest:
        """Return a prompt and its answers as they are written one after the other."""


def score_request(
    tokenizer: PromptTokenizer, prompt: EncodedPrompt, answers: Sequence[str]
) -> ScoreRequest:
    """Return the request for answers (their texts, as `Prompt.answer` gives them)."""
    if isinstance(tokenizer, JoiningTokenizer):
        return tokenizer.join(prompt.text, answers)
    return ScoreRequest(prompt.ids, tokenizer.encode_batch(answers))


class AnswerModel(Protocol):
    """A model that scores and writes answers. What an item gets does not depend on its batch."""

    @property
    def label(self) -> str:
        """Name in tables and files: `model`, `base`, `adapted`, or that of another model."""

    @property
    def tokenizer(self) -> AnswerTokenizer:
        """Turns prompts and answers into ids."""

    @property
    def checkpoint(self) -> str:
        """Where the weights come from: a path or the name of a repository."""

    @property
    def checkpoint_sha256(self) -> str:
        """sha256 over the weights."""

    @property
    def max_tokens(self) -> int | None:
        """Most ids of prompt and answer together; None where there is no limit."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Return the log-probability (nats) of each answer after its prompt, summed over ids."""

    def write(self, prompts: Sequence[Sequence[int]], options: WriteText) -> list[Written]:
        """Return what follows each prompt."""


@runtime_checkable
class FeatureModel(Protocol):
    """An answer model that shows its hidden states after a prompt."""

    def features(self, prompts: Sequence[Sequence[int]], pooling: str) -> NDArray[np.float64]:
        """Return one vector per prompt (prompts, width), pooled over its positions."""


@dataclass(frozen=True)
class Passage:
    """A question and the text in which its answer is."""

    question: str
    context: str


@runtime_checkable
class PassageReader(Protocol):
    """An answer model that marks its answers in a passage and reads no prompt."""

    def read(self, passages: Sequence[Passage], num_candidates: int) -> list[Written]:
        """Return the best answers to each question, different texts."""


# -------------------------------------------------------------------------------------------------
# What a model said to an item, before any rule makes a prediction of it.
#
# Scores and texts are what costs time; which label follows from them can be decided again and
# again.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """What may be known of a text that may not be kept."""

    sha256: str
    num_chars: int

    @classmethod
    def of(cls, text: str) -> "Hidden":
        """Describe a text."""
        return cls(sha256=sha256(text.encode()).hexdigest(), num_chars=len(text))


@dataclass(frozen=True, kw_only=True)
class RawAnswer:
    """What a model said to an item.

    Attributes:
        key: The id of the item; for restricted tasks a hash of it.
        log_probabilities: Of each label or option (nats, summed over its ids); all finite.
        prior_log_probabilities: The same after a prompt whose parts are empty; empty if not asked.
        num_tokens: Ids of each label or option.
        candidates: What was written, best first; never kept of restricted tasks.
        label: What was read from the best one, if labels are written.
        status: See `Prediction`.
        stop_reason: Why the best one ended.
        num_cut_tokens: Tokens of the item that its prompt had to leave out.
        hidden: In the place of the candidates of a restricted task.
        columns: In their place too: what the answer adds to each measure.
    """

    key: str
    log_probabilities: Sequence[float] = ()
    prior_log_probabilities: Sequence[float] = ()
    num_tokens: Sequence[int] = ()
    candidates: Sequence[str] = ()
    label: str | None = None
    status: str = ANSWERED
    stop_reason: str = ""
    num_cut_tokens: int = 0
    hidden: Sequence[Hidden] = ()
    columns: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scores = (*self.log_probabilities, *self.prior_log_probabilities)
        if not all(map(math.isfinite, scores)):
            raise ValueError("log probabilities must be finite")

    def plain(self) -> dict[str, Any]:
        """Return what is not empty as values of JSON."""
        empty = {"log_probabilities", "prior_log_probabilities", "num_tokens", "candidates"}
        empty |= {"stop_reason", "hidden", "columns", "label"}
        return {name: value for name, value in asdict(self).items() if value or name not in empty}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "RawAnswer":
        """Return the answer that `plain` described; other values are ignored.

        Raises:
            ValueError: A log probability is not finite.
            TypeError: The key is missing or a value is of another shape.
        """
        known = {found.name for found in fields(cls)}
        own = {name: value for name, value in values.items() if name in known}
        if "hidden" in own:
            own["hidden"] = [Hidden(**each) for each in own["hidden"]]
        return cls(**own)


def key_of(task: str, item_id: str, *, is_restricted: bool) -> str:
    """Return what stands for an item in files."""
    return sha256(f"{task}\0{item_id}".encode()).hexdigest() if is_restricted else item_id


# -------------------------------------------------------------------------------------------------
# Answers on disk: one JSON line per item, kept as they come, so that no item is asked twice.
#
# predictions/<task>.<model>.part_<rank>.jsonl    while a rank answers; a kill loses a batch at most
# predictions/<task>.<model>.jsonl                all items in their order, once every rank is done
#
# The first line of each file is a header with what decided the answers. Files of other answers are
# refused. Those of restricted tasks hold no texts; only their owner may read them.
# -------------------------------------------------------------------------------------------------

_HEADER = "header"
_NUM_NAMED = 3


@dataclass(frozen=True)
class AnswerLog:
    """The files of one task and one model.

    Attributes:
        folder: Of all predictions of the run.
        name: Task and model, with the split if it is not the test split.
        header: Fingerprints of all that decides the answers, as plain values.
        is_restricted: Only the owner may read files and folder.
    """

    folder: Path
    name: str
    header: Mapping[str, Any]
    is_restricted: bool

    @property
    def path(self) -> Path:
        """The merged file."""
        return self.folder / f"{self.name}.jsonl"

    def part(self, rank: int) -> Path:
        """Return the file that a rank appends to."""
        return self.folder / f"{self.name}.part_{rank}.jsonl"

    def read(self) -> dict[str, RawAnswer]:
        """Return all answers there are by the key of their item.

        Raises:
            ConfigError: A file holds other answers.
            DataError: A line is damaged; the message does not quote it.
        """
        found: dict[str, RawAnswer] = {}
        for path in (self.path, *self._parts()):
            for number, line in enumerate(self._lines(path), start=2):
                try:
                    raw = RawAnswer.from_plain(loads(line))
                except (ValueError, TypeError, AttributeError):
                    raise DataError(
                        f"{path}, line {number}: damaged; remove the file to answer its items again"
                    ) from None
                found[raw.key] = raw
        return found

    @contextmanager
    def appending(self, rank: int) -> Iterator["Appender"]:
        """Hold the file of a rank to append to it.

        Raises:
            ConfigError: Another process holds it, or it holds other answers.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.is_restricted:
            self.folder.chmod(0o700)
        path = self.part(rank)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, self._mode), "r+b") as file:
            if self.is_restricted:
                path.chmod(self._mode)
            try:  # not lockf: it ends when the file is read elsewhere in this process
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(
                    f"{path}: another process appends to it; wait until it has ended, or choose "
                    "another run_id"
                ) from None
            list(self._lines(path))  # refuses a file of other answers
            content = file.read()
            file.seek(content.rfind(b"\n") + 1)  # half a line, left by a kill, is written over
            file.truncate()
            appender = Appender(file)
            if file.tell() == 0:
                appender.add_plain([{_HEADER: dict(self.header)}])
            yield appender

    def merge(self, keys: Sequence[str]) -> list[RawAnswer]:
        """Return the answers of these items in their order.

        Raises:
            DataError: Some are missing.
        """
        found = self.read()
        missing = [key for key in keys if key not in found]
        if missing:
            named = ", ".join(missing[:_NUM_NAMED])
            raise DataError(
                f"{self.path}: {len(missing)} of {len(keys)} items have no answer, the first are "
                f"{named}; start the same command again to answer them"
            )
        return [found[key] for key in keys]

    def publish(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write the merged file, one object per item, and remove those of the ranks."""
        rows = [{_HEADER: dict(self.header)}, *lines]
        write_text(self.path, "".join(_line(row) for row in rows))
        if self.is_restricted:
            self.path.chmod(self._mode)
        for path in self._parts():
            path.unlink()

    @property
    def _mode(self) -> int:
        return 0o600 if self.is_restricted else 0o666

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.name}.part_*.jsonl"))

    def _lines(self, path: Path) -> Iterator[str]:
        """Iterate over the complete lines after the header, which must be ours."""
        if not path.is_file():
            return
        header, *lines = path.read_bytes().split(b"\n")
        if not lines:
            return  # not even the header is complete
        self._check_header(path, header)
        yield from (line.decode(errors="replace") for line in lines[:-1])

    def _check_header(self, path: Path, line: bytes) -> None:
        try:
            found = loads(line)[_HEADER]
            different = sorted(
                key
                for key in {*found, *self.header}
                if found.get(key) != json.loads(json.dumps(self.header.get(key)))
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            raise DataError(f"{path}: its header is damaged; remove the file") from None
        if different:
            raise ConfigError(
                f"{path} holds answers that were given to something else: "
                f"{', '.join(different)} differ; choose another run_id, or remove the file"
            )


class Appender:
    """Appends answers; what was added survives a kill."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, answers: Iterable[RawAnswer]) -> None:
        """Append answers."""
        self.add_plain(answer.plain() for answer in answers)

    def add_plain(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append objects, all in one write."""
        self._file.write("".join(_line(row) for row in rows).encode())
        self._file.flush()


def _line(row: Mapping[str, Any]) -> str:
    # ASCII: some readers take U+2028 for the end of a line.
    return json.dumps(row, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Published:
    """A merged file: its header, and one object per item with `key`, `unit` and `columns`."""

    header: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


def read_published(path: Path) -> Published:
    """Read a merged file.

    Raises:
        DataError: It is missing or damaged; the message does not quote it.
    """
    try:
        text = read_text(path, MAX_TABLE_BYTES)
        header, *rows = [loads(line) for line in text.splitlines()]
        return Published(header[_HEADER], rows)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError):
        raise DataError(f"{path}: not a file of predictions, or damaged") from None
