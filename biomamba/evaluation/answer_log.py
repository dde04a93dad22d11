"""Answers on disk: one JSON line per item, kept as they come, so that no item is asked twice.

predictions/<task>.<model>.part_<rank>.jsonl    while a rank answers; a kill loses a batch at most
predictions/<task>.<model>.jsonl                all items in their order, once every rank is done

The first line of each file is a header with what decided the answers. Files of other answers are
refused. Those of restricted tasks hold no texts; only their owner may read them.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from biomamba.evaluation.raw_answer import RawAnswer
from biomamba.runtime.atomic import write_text
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.input_files import MAX_TABLE_BYTES, loads, read_text

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
        """Iterate over the complete lines behind the header, which must be ours."""
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
