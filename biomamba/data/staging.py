"""Stage raw shards: read, tokenise and mark each once, in several processes if asked."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.corpora.corpus import Corpus
from biomamba.data.rows import RawShard
from biomamba.data.settings_difference import settings_difference
from biomamba.data.stage_writer import StageWriter
from biomamba.data.staged_shard import STAGE_VERSION, StagedRecord, StagedShard
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import DataError
from biomamba.runtime.numbers import check_number

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageRules:
    """What decides the staging of one corpus.

    Attributes:
        folder: The staging folder of its store.
        corpus: Where the documents come from.
        tokenizer: Encodes the texts.
        cleaning: Marks the documents.
        max_bad_fraction: A shard is refused when more of its rows than this are damaged.
        is_rebuild: Replace what was staged under other settings instead of refusing.
    """

    folder: Path
    corpus: Corpus
    tokenizer: Tokenizer
    cleaning: Cleaning
    max_bad_fraction: float
    is_rebuild: bool = False

    def __post_init__(self) -> None:
        check_number("max_bad_fraction", self.max_bad_fraction, at_least=0, at_most=1)

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the content, apart from the raw bytes, as in JSON."""
        settings = {
            "stage_version": STAGE_VERSION,
            "tokenizer": self.tokenizer.fingerprint,
            "corpus": self.corpus.settings(),
            "domain": self.corpus.domain,
            "cleaning": self.cleaning.settings(),
        }
        content: dict[str, Any] = json.loads(json.dumps(settings))
        return content


@dataclass(frozen=True)
class StageTask:
    """One raw shard to be staged.

    Attributes:
        store: Name of the corpus.
        number: Place of the shard in its corpus.
        shard: The raw shard.
        needs_tokens: False where the token shard is already committed: marks are enough.
    """

    store: str
    number: int
    shard: RawShard
    needs_tokens: bool

    def __str__(self) -> str:
        return f"raw shard {self.shard.name} of {self.store}"


class Stager:
    """Stage one raw shard after the other, or find it staged.

    Args:
        rules: By name of the corpus.
    """

    def __init__(self, rules: Mapping[str, StageRules]) -> None:
        self._rules = dict(rules)
        self._settings: dict[str, dict[str, Any]] = {}

    def __call__(self, task: StageTask) -> Iterator[int]:
        """Bring one shard up to date; yield the numbers of rows read.

        Raises:
            DataError: If the shard was staged otherwise, its raw data cannot be read, too much of
                it is damaged, or the folder cannot be written.
        """
        rules = self._rules[task.store]
        if task.store not in self._settings:
            self._settings[task.store] = rules.settings()
        settings = self._settings[task.store]
        fingerprint = task.shard.fingerprint()
        staged = StagedShard(rules.folder, task.number)
        if not _is_current(staged, task, (settings, fingerprint), is_rebuild=rules.is_rebuild):
            yield from _stage(staged, task, rules, (settings, fingerprint))


def refuse_other_staging(
    rules: StageRules, shards: Sequence[RawShard], settings: Mapping[str, Any]
) -> None:
    """Compare what is staged with what is asked for, without reading raw data.

    Raises:
        DataError: If a shard was staged under other settings, from another raw shard, or from one
            that is no longer there.
    """
    for path in sorted(rules.folder.glob("[0-9]*.json")):
        try:
            record = StagedRecord.read(path)
        except DataError:
            continue  # staged again when its turn comes
        refuse_difference(path, record.settings, settings)
        number = int(path.stem)
        asked = shards[number].name if number < len(shards) else "no such raw shard"
        if record.raw_name != asked:
            raise other_raw(path, record.raw_name, asked)


def refuse_difference(path: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse records of other settings.

    Raises:
        DataError: Naming every difference.
    """
    difference = settings_difference(stored, asked)
    if difference:
        raise DataError(
            f"{path} was written with other settings ({difference}); "
            "choose another name, or set overwrite=true to rebuild the store"
        )


def other_raw(path: Path, found: object, asked: object) -> DataError:
    """Make the error for a record of another raw shard."""
    return DataError(
        f"{path} was made from {found}, now asked for: {asked}; "
        "set overwrite=true to rebuild the store"
    )


def _is_current(
    staged: StagedShard,
    task: StageTask,
    asked: tuple[dict[str, Any], str],
    *,
    is_rebuild: bool,
) -> bool:
    settings, fingerprint = asked
    path = staged.record_path
    if not path.is_file():
        return False
    try:
        record = StagedRecord.read(path)
    except DataError as error:
        _LOG.warning("%s; staging it again", error)
        return False
    identity = (record.raw_name, record.raw_fingerprint)
    is_same = record.settings == settings and identity == (task.shard.name, fingerprint)
    if not is_same and not is_rebuild:
        refuse_difference(path, record.settings, settings)
        raise other_raw(path, identity, (task.shard.name, fingerprint))
    if not is_same or (task.needs_tokens and not staged.path("bin").is_file()):
        return False
    problems = list(staged.problems(record, needs_tokens=task.needs_tokens))
    if problems:
        _LOG.warning("%s: %s; staging it again", staged.folder, "; ".join(problems))
    return not problems


def _stage(
    staged: StagedShard, task: StageTask, rules: StageRules, asked: tuple[dict[str, Any], str]
) -> Iterator[int]:
    settings, fingerprint = asked
    try:
        staged.folder.mkdir(parents=True, exist_ok=True)
        with StageWriter(staged, rules.tokenizer, rules.cleaning) as writer:
            yield from writer.write(rules.corpus.documents(task.shard))
            _check_damage(writer, task.shard.name, rules.max_bad_fraction)
            _check_unchanged(task, fingerprint)
            files = writer.commit()
    except OSError as error:
        raise DataError(
            f"cannot stage {task} in {staged.folder} ({error.strerror}); the committed shards "
            "are safe, make room or mend the rights, and run again"
        ) from error
    counts = writer.counts
    if not counts.num_rows:
        _LOG.warning("%s has no rows", task)
    record = StagedRecord(
        raw_name=task.shard.name,
        raw_fingerprint=fingerprint,
        settings=settings,
        num_documents=writer.num_documents,
        num_bands=writer.num_bands,
        num_rows=counts.num_rows,
        rejects=dict(sorted(counts.rejects.items())),
        num_damaged=counts.num_damaged,
        files=files,
    )
    staged.write_record(record)


def _check_unchanged(task: StageTask, fingerprint: str) -> None:
    if task.shard.fingerprint() != fingerprint:
        raise DataError(
            f"{task} has changed while it was read; wait until nobody writes to it and run again"
        )


def _check_damage(writer: StageWriter, name: str, max_bad_fraction: float) -> None:
    counts = writer.counts
    if counts.num_damaged > max_bad_fraction * counts.num_rows:
        raise DataError(
            f"{counts.num_damaged} of {counts.num_rows} rows of raw shard {name} are damaged, "
            f"more than max_bad_fraction={max_bad_fraction} "
            f"({'; '.join(counts.examples)}); mend the file or raise the limit"
        )
