"""The prepare stage: corpora to token stores under one tokenizer."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from biomamba.data.corpora.corpus import Corpus
from biomamba.data.document import SPLITS, Document, SplitRule, document_key
from biomamba.data.manifest import Manifest
from biomamba.data.rows import RawShard
from biomamba.data.store import StorePolicy, StoreWriter
from biomamba.data.tokenizer_folder import obtain_tokenizer
from biomamba.data.tokenizer_source import TokenizerSource
from biomamba.runtime.errors import ConfigError

Shards = Mapping[str, Sequence[RawShard]]


def prepare(
    folder: Path,
    corpora: Mapping[str, Corpus],
    tokenizer_source: TokenizerSource,
    policy: StorePolicy,
    *,
    overwrite: bool = False,
) -> dict[str, Manifest]:
    """Write or complete the store of every corpus and return the manifests by corpus.

    A rerun continues behind the last committed shard. Progress goes to stderr.

    Args:
        folder: The set; each corpus gets a folder of its name in it.
        corpora: The corpora by name.
        tokenizer_source: The tokenizer of the set; one that is trained sees the training split
            alone.
        policy: Split and tolerance.
        overwrite: Rebuild what is there.

    Raises:
        DataError: If raw data or stores are missing, damaged or of other settings.
    """
    if not corpora:
        raise ConfigError("corpora is empty; choose at least one with corpus=[...]")
    shards = {name: corpus.shards() for name, corpus in corpora.items()}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = obtain_tokenizer(
        folder,
        tokenizer_source,
        lambda: training_texts(corpora, shards, policy.rule),
        {name: _identities(shards[name]) for name in corpora} | {"split": str(policy.rule)},
        overwrite=overwrite,
    )
    manifests: dict[str, Manifest] = {}
    with _progress() as progress:
        for name, corpus in corpora.items():
            writer = StoreWriter(folder / name, corpus, tokenizer, policy)
            report = _Reporter(progress, name, len(shards[name]))
            manifests[name] = writer.write(shards[name], report, overwrite=overwrite)
    return manifests


def training_texts(corpora: Mapping[str, Corpus], shards: Shards, rule: SplitRule) -> Iterator[str]:
    """Iterate over the texts of the training split of all corpora."""
    for name, corpus in corpora.items():
        for shard in shards[name]:
            for row in corpus.documents(shard):
                if isinstance(row, Document) and rule.split_of(document_key(row.id)) == "train":
                    yield row.text


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
            table.add_row(
                name,
                manifest.domain,
                split,
                f"{totals.documents:,}",
                f"{totals.tokens:,}",
                f"{totals.bytes:,}",
            )
        for reason, count in manifest.rejects.items():
            table.add_row(name, "", f"left out: {reason}", f"{count:,}", "", "")
    return table


class _Reporter:
    """Turn the counts of one store into a progress line with rate and remaining time."""

    def __init__(self, progress: Progress, name: str, num_shards: int) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=num_shards, rows=0, rate="")
        self._rows = 0

    def __call__(self, num_shards: int, num_rows: int) -> None:
        self._rows += num_rows
        task = self._progress.tasks[self._task]
        seconds = task.elapsed or 0.0
        rate = f"{self._rows / seconds:,.0f} rows/s" if seconds > 0 else ""
        self._progress.update(self._task, advance=num_shards, rows=self._rows, rate=rate)


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("shards"),
        TextColumn("{task.fields[rows]:,} rows {task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _identities(shards: Sequence[RawShard]) -> list[Any]:
    return [[shard.name, shard.fingerprint()] for shard in shards]
