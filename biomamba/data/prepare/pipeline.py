"""The prepare stage: corpora to token stores under one tokenizer.

Every raw shard is staged on its own; then one decision over all documents of the set says what is
a duplicate and which split each document is in; then the stores are finished from the staging.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from biomamba.data.cleaning.contamination import contamination_report
from biomamba.data.cleaning.decisions import StagedSource, decide, shard_tables
from biomamba.data.cleaning.policy import Cleaning, length_settings
from biomamba.data.corpora.corpus import Corpus
from biomamba.data.document import SPLITS, Document, SplitRule, document_key
from biomamba.data.prepare.staging import STAGING_NAME, Stager
from biomamba.data.prepare.workers import TIMEOUT_SECONDS, work_on
from biomamba.data.raw_shards import Part
from biomamba.data.rows import RawShard
from biomamba.data.store.format import CONTAMINATION_NAME, MANIFEST_NAME, Manifest, ShardRecord
from biomamba.data.store.writer import Store, StorePolicy
from biomamba.data.tokenizer import Tokenizer, TokenizerSource, obtain_tokenizer
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import folder_lock, write_sealed
from biomamba.runtime.numbers import check_number, check_whole

# -------------------------------------------------------------------------------------------------
# Show how the prepare stage comes along: rows per second, shards, remaining time; on stderr.
# -------------------------------------------------------------------------------------------------

_SECONDS_BETWEEN_LOG_LINES = 60


class PrepareProgress:
    """Progress lines, one per corpus and phase."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[shards]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )

    def __enter__(self) -> "PrepareProgress":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def phase(self, name: str, sizes: Mapping[int, float]) -> "Phase":
        """Add a line for shards of these sizes, by number."""
        return Phase(self._progress, name, sizes)


class Phase:
    """One line: shards of given sizes, done in any order.

    Args:
        progress: Where the line is.
        name: What the line starts with.
        sizes: Of the shards by number, in one unit.
    """

    def __init__(self, progress: Progress, name: str, sizes: Mapping[int, float]) -> None:
        self._progress = progress
        self._name = name
        self._task = progress.add_task(name, total=sum(sizes.values()), shards="", rate="")
        self._sizes = sizes
        self._num_rows = 0
        self._num_shards = 0
        self._started: set[int] = set()
        self._work = 0.0
        self._left = sum(sizes.values())
        self._begin: float | None = None
        self._told = time.monotonic()

    def rows(self, number: int, num_rows: int) -> None:
        """Count rows of shard `number`."""
        if self._begin is None:  # lines of later corpora stand still until their turn comes
            self._begin = time.monotonic()
        self._started.add(number)
        self._num_rows += num_rows
        self._show()

    def shard(self, number: int) -> None:
        """Count shard `number` as done."""
        size = self._sizes[number]
        self._num_shards += 1
        self._left -= size
        if number in self._started:  # what was found done tells nothing about the speed
            self._work += size
        self._progress.advance(self._task, size)
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        seconds = 0.0 if self._begin is None else now - self._begin
        parts = [f"{self._num_rows / seconds:,.0f} rows/s"] if self._num_rows and seconds else []
        if self._work and self._left > 0:
            parts.append(f"{_duration(seconds * self._left / self._work)} left")
        shards, rate = f"{self._num_shards}/{len(self._sizes)} shards", " ".join(parts)
        self._progress.update(self._task, shards=shards, rate=rate)
        # A log of a batch job shows no moving line; it gets one from time to time.
        console = self._progress.console
        if not console.is_terminal and now - self._told >= _SECONDS_BETWEEN_LOG_LINES:
            self._told = now
            console.print(self._name, shards, rate, highlight=False)


def shard_sizes(shards: Sequence[RawShard]) -> list[float]:
    """Return the bytes of the raw files; 1 for each shard where one of them is no file."""
    paths = [getattr(shard, "path", None) for shard in shards]
    files = [path for path in paths if isinstance(path, Path) and path.is_file()]
    if len(files) < len(paths):
        return [1.0] * len(paths)
    return [float(path.stat().st_size) for path in files]


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


# -------------------------------------------------------------------------------------------------
# The prepare stage: corpora to token stores under one tokenizer.
# -------------------------------------------------------------------------------------------------

Shards = Mapping[str, Sequence[RawShard]]


@dataclass(frozen=True)
class Job:
    """How the work is done; changes no byte of the result.

    Attributes:
        num_workers: Processes that stage raw shards side by side.
        worker_timeout_seconds: When one of several such processes that reports nothing is given
            up; None for never.
        part: Only stage this part of the raw shards; None stages all and finishes the stores.
        overwrite: Rebuild what is there; staging of the same settings is used again.
    """

    num_workers: int = 1
    part: Part | None = None
    overwrite: bool = False
    worker_timeout_seconds: float | None = TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        check_number("worker_timeout_seconds", self.worker_timeout_seconds, above=0, optional=True)
        check_whole("num_workers", self.num_workers)
        if self.part is not None and self.overwrite:
            raise ConfigError(
                "overwrite=true with part would clear what other parts have done; remove the set "
                "or choose another name"
            )


def prepare(
    folder: Path,
    corpora: Mapping[str, Corpus],
    tokenizer_source: TokenizerSource,
    policy: StorePolicy,
    cleaning: Cleaning | None = None,
    job: Job | None = None,
) -> dict[str, Manifest]:
    """Write or complete the store of every corpus and return the manifests by corpus.

    A rerun continues after what is committed. Progress goes to stderr.

    Args:
        folder: The set; each corpus gets a folder of its name in it.
        corpora: All corpora of the set, by name; of several equal documents that of the earlier
            corpus stays.
        tokenizer_source: The tokenizer of the set; one that is trained sees the training split
            alone.
        policy: Split and tolerance.
        cleaning: What is left out; None leaves out exact duplicates.
        job: Processes, part, overwrite.

    Returns:
        The manifests; empty if only a part was staged.

    Raises:
        DataError: If raw data or stores are missing, damaged or of other settings, the set holds
            other corpora too, or another process is at work.
    """
    if not corpora:
        raise ConfigError("corpora is empty; choose at least one with corpus=[...]")
    job, cleaning = job or Job(), cleaning or Cleaning()
    with set_locks(folder, job.part):
        if job.part is None:
            _refuse_other_stores(folder, corpora)
        shards = {name: corpus.shards() for name, corpus in corpora.items()}
        training = (shards, policy.rule, cleaning)
        texts, trained_on = (
            partial(training_texts, corpora, *training),
            partial(_identity, *training),
        )
        tokenizer = _tokenizer(folder, tokenizer_source, texts, trained_on, job)
        stores = [
            Store(folder / name, corpus, shards[name], tokenizer, policy, cleaning)
            for name, corpus in corpora.items()
        ]
        with PrepareProgress() as progress:
            stage_stores(stores, job, progress)
            return {} if job.part is not None else finish_stores(folder, stores, progress)


def _tokenizer(
    folder: Path,
    source: TokenizerSource,
    texts: Callable[[], Iterator[str]],
    trained_on: Callable[[], dict[str, Any]],
    job: Job,
) -> Tokenizer:
    # Parts that start side by side make it once.
    with folder_lock(folder, "making the tokenizer of", name=".tokenizer.lock", is_patient=True):
        return obtain_tokenizer(folder, source, texts, trained_on, overwrite=job.overwrite)


def training_texts(
    corpora: Mapping[str, Corpus], shards: Shards, rule: SplitRule, cleaning: Cleaning
) -> Iterator[str]:
    """Iterate over the texts of all corpora whose own key is in the training split.

    Documents that are too long are left out; duplicates and benchmarks are not known yet.
    """
    for name, corpus in corpora.items():
        for shard in shards[name]:
            for row in cleaning.admit(corpus.documents(shard)):
                if isinstance(row, Document) and rule.split_of(_group_key(row)) == "train":
                    yield row.text


def stage_stores(stores: Sequence[Store], job: Job, progress: PrepareProgress) -> None:
    """Stage the raw shards of a set, or a part of them.

    Raises:
        DataError: If a shard cannot be staged; what is committed stays.
    """
    for store in stores:
        if job.overwrite:
            store.clear()
        else:
            store.refuse_other_settings()
        if job.part is None:
            store.remove_temporary()
    tasks = [task for store in stores for task in store.stage_tasks()]
    chosen = tasks if job.part is None else job.part.of(tasks)
    phases = {}
    for store in stores:
        sizes = shard_sizes(store.shards)
        own = {task.number: sizes[task.number] for task in chosen if task.store == store.name}
        phases[store.name] = progress.phase(f"stage {store.name}", own)
    stager = Stager({s.name: s.stage_rules(is_rebuild=job.overwrite) for s in stores})
    for event in work_on(stager, chosen, job.num_workers, job.worker_timeout_seconds):
        phase, number = phases[event.task.store], event.task.number
        if event.is_finished:
            phase.shard(number)
        else:
            phase.rows(number, event.amount)


def finish_stores(
    folder: Path, stores: Sequence[Store], progress: PrepareProgress
) -> dict[str, Manifest]:
    """Decide over all documents of a staged set and finish its stores.

    Args:
        folder: The set.
        stores: In the order of the set.
        progress: Gets a line per store.

    Raises:
        DataError: If a corpus has no document, committed token shards follow other decisions
            or are damaged, or the folder cannot be written.
    """
    sources = {store.name: store.sources() for store in stores}
    for store in stores:
        _refuse_empty(store.name, sources[store.name])
    tables = shard_tables([source for own in sources.values() for source in own], folder)
    cleaning, rule = stores[0].cleaning, stores[0].policy.rule
    decided = decide(tables, cleaning, rule)
    remaining = iter(decided)
    decisions = {name: [next(remaining) for _ in own] for name, own in sources.items()}
    # All stores are looked at before one is changed.
    committed = {s.name: s.committed(sources[s.name], decisions[s.name]) for s in stores}
    report = contamination_report(tables, decided, cleaning, rule)
    write_sealed(folder / CONTAMINATION_NAME, report)
    manifests = {}
    for store in stores:
        phase = progress.phase(f"finish {store.name}", dict.fromkeys(range(len(store.shards)), 1.0))
        own = zip(committed[store.name], sources[store.name], decisions[store.name], strict=True)
        records: list[ShardRecord] = []
        for number, (record, source, decision) in enumerate(own):
            records.append(record or store.finish_shard(source, decision))
            phase.shard(number)
        manifests[store.name] = store.finish(records)
    return manifests


def summary(manifests: Mapping[str, Manifest]) -> Table:
    """Tabulate documents, tokens and bytes per corpus and split, and the rejects."""
    table = Table(title="Token stores")
    for heading in ("corpus", "domain", "split"):
        table.add_column(heading)
    for heading in ("documents", "tokens", "bytes"):
        table.add_column(heading, justify="right")
    for name, manifest in manifests.items():
        for split in SPLITS:
            totals = manifest.totals[split]
            figures = (totals.documents, totals.tokens, totals.bytes)
            table.add_row(name, manifest.domain, split, *(f"{figure:,}" for figure in figures))
        for reason, count in manifest.rejects.items():
            table.add_row(name, "", f"left out: {reason}", f"{count:,}", "", "")
    return table


@contextmanager
def set_locks(folder: Path, part: Part | None) -> Iterator[None]:
    """Hold a set alone, or one part of it beside the holders of other parts.

    Raises:
        DataError: If another process holds the set or the same part.
    """
    activity = "preparing"
    if part is None:
        with folder_lock(folder, activity):
            yield
        return
    name = f".part-{part.number}-of-{part.count}.lock"
    with (
        folder_lock(folder, activity, is_shared=True),
        folder_lock(folder, f"staging part {part} of", name=name),
    ):
        yield


def _refuse_other_stores(folder: Path, corpora: Mapping[str, Corpus]) -> None:
    """Refuse to decide about some corpora of a set without the others."""
    found = {
        path.parent.name
        for name in (MANIFEST_NAME, STAGING_NAME)
        for path in folder.glob(f"*/{name}")
    }
    others = sorted(found - corpora.keys())
    if others:
        raise DataError(
            f"the set {folder} also holds {', '.join(others)}, and duplicates are looked for in "
            "all documents of a set; name these corpora too, or choose another name"
        )


def _refuse_empty(name: str, sources: Sequence[StagedSource]) -> None:
    """Refuse a corpus whose raw files gave no document."""
    if any(source.record.num_documents for source in sources):
        return
    counts: Counter[str] = Counter()
    for source in sources:
        counts.update(source.record.rejects)
    reasons = "; ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
    raise DataError(
        f"corpus {name} has no document to store ({reasons or 'its raw files hold no rows'}); "
        "check its files and rules, or leave it out"
    )


def _group_key(document: Document) -> int:
    return document_key(document.id if document.group is None else document.group)


def _identity(shards: Shards, rule: SplitRule, cleaning: Cleaning) -> dict[str, Any]:
    """Return what decides the training texts."""
    return {
        **{name: [[s.name, s.fingerprint()] for s in own] for name, own in shards.items()},
        "split": str(rule),
        **length_settings(cleaning.max_document_characters),
    }
