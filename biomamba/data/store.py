"""Write the token store of one corpus, shard by shard, so that a rerun continues.

The output is a pure function of the raw bytes and the settings: raw shard k becomes token shard k,
whatever was interrupted in between. One writer at a time holds the lock of a store.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from biomamba.data.corpora.corpus import Corpus
from biomamba.data.document import SPLITS, SplitRule
from biomamba.data.folder_lock import folder_lock
from biomamba.data.key_set import KeySet
from biomamba.data.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    ShardRecord,
    Totals,
    file_problems,
    record_of,
)
from biomamba.data.rows import RawShard
from biomamba.data.sealed import TEMPORARY_SUFFIX
from biomamba.data.shard_writer import ShardCounts, ShardWriter, read_index, token_dtype
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import ConfigError, DataError

Report = Callable[[int, int], None]  # (shards committed, rows done since the last call)


@dataclass(frozen=True)
class StorePolicy:
    """How documents become a store.

    Attributes:
        val_permille: Thousandths of the documents held out for model selection.
        test_permille: Thousandths of the documents held out for evaluation.
        max_bad_fraction: The stage stops when more of the rows than this are damaged.
    """

    val_permille: int
    test_permille: int
    max_bad_fraction: float = 0.001

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"max_bad_fraction is {self.max_bad_fraction}; use 0 to 1")
        _ = self.rule

    @property
    def rule(self) -> SplitRule:
        """The split rule alone."""
        return SplitRule(self.val_permille, self.test_permille)


class StoreWriter:
    """Write one corpus into one folder.

    Args:
        folder: The store; created if absent.
        corpus: Where the documents come from.
        tokenizer: Encodes the texts.
        policy: Split and tolerance.
    """

    def __init__(
        self, folder: Path, corpus: Corpus, tokenizer: Tokenizer, policy: StorePolicy
    ) -> None:
        self._folder = folder
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._policy = policy
        self._settings: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "tokenizer": tokenizer.fingerprint,
            "split": asdict(policy.rule),
            "corpus": corpus.settings(),
            "domain": corpus.domain,
            "licence": corpus.licence,
        }

    def write(self, shards: Sequence[RawShard], report: Report, *, overwrite: bool) -> Manifest:
        """Bring the store up to date with the raw shards and return its manifest.

        Shards that are committed under the same settings are kept after a check of their hashes.

        Raises:
            DataError: If another writer is at work, the stored shards have other settings or other
                raw content, too many rows are damaged, or the disk is full.
        """
        with folder_lock(self._folder, "writing token store"):
            if overwrite:
                _clear(self._folder)
            _remove_temporary(self._folder)
            records = self._committed(shards)
            report(len(records), 0)
            keys = self._stored_keys(records)
            for number in range(len(records), len(shards)):
                (self._folder / MANIFEST_NAME).unlink(missing_ok=True)
                records.append(self._write_shard(number, shards[number], keys, records, report))
            return self._finish(records)

    def _committed(self, shards: Sequence[RawShard]) -> list[ShardRecord]:
        records: list[ShardRecord] = []
        while (path := self._record_path(len(records))).is_file():
            record = ShardRecord.read(path)
            self._check_settings(path, record)
            number = len(records)
            found = (record.raw_name, record.raw_fingerprint)
            if number >= len(shards) or found != _identity(shards[number]):
                asked = _identity(shards[number]) if number < len(shards) else "no such raw shard"
                raise DataError(
                    f"{path} was made from {found}, now asked for: {asked}; "
                    "set overwrite=true to rebuild the store"
                )
            problems = list(file_problems(self._folder, record.files, is_full=True))
            if problems:
                raise DataError(
                    f"token store {self._folder} is damaged: {'; '.join(problems)}; "
                    "set overwrite=true to rebuild it"
                )
            records.append(record)
        return records

    def _check_settings(self, path: Path, record: ShardRecord) -> None:
        stored, asked = _flatten(record.settings), _flatten(self._settings)
        differences = [
            f"{key} is {stored.get(key)!r}, asked for {asked.get(key)!r}"
            for key in sorted(stored.keys() | asked.keys())
            if stored.get(key) != asked.get(key)
        ]
        if differences:
            raise DataError(
                f"{path} was written with other settings ({'; '.join(differences)}); "
                "choose another name, or set overwrite=true to rebuild the store"
            )

    def _stored_keys(self, records: Sequence[ShardRecord]) -> KeySet:
        keys = KeySet()
        for record in records:
            for name in sorted(record.files):
                if name.endswith(".idx"):
                    keys.add(read_index(self._folder / name)["key"])
        return keys

    def _write_shard(
        self,
        number: int,
        shard: RawShard,
        keys: KeySet,
        earlier: Sequence[ShardRecord],
        report: Report,
    ) -> ShardRecord:
        name, fingerprint = _identity(shard)
        for path in self._folder.glob(f"{_shard_name(number)}.*"):
            path.unlink()  # left by a crash between the first file and the record
        writer = ShardWriter(
            self._folder, _shard_name(number), self._tokenizer, self._policy.rule, keys
        )
        try:
            with writer:
                for num_rows in writer.write(self._corpus.documents(shard)):
                    report(0, num_rows)
                self._check_damage(writer.counts, name)
                files = writer.commit()
        except OSError as error:
            raise DataError(
                f"cannot write token shard {_shard_name(number)} of {self._folder} "
                f"({error.strerror}); {len(earlier)} shards are safe, make room and run again"
            ) from error
        record = self._record(name, fingerprint, writer.counts, files)
        record.write(self._record_path(number))
        report(1, 0)
        return record

    def _record(
        self, name: str, fingerprint: str, counts: ShardCounts, files: dict[str, FileRecord]
    ) -> ShardRecord:
        return ShardRecord(
            raw_name=name,
            raw_fingerprint=fingerprint,
            settings=self._settings,
            totals=counts.totals,
            rejects=dict(sorted(counts.rejects.items())),
            num_damaged=counts.num_damaged,
            files=files,
        )

    def _check_damage(self, counts: ShardCounts, name: str) -> None:
        if counts.num_damaged > self._policy.max_bad_fraction * counts.num_rows:
            raise DataError(
                f"{counts.num_damaged} of {counts.num_rows} rows of raw shard {name} are damaged, "
                f"more than max_bad_fraction={self._policy.max_bad_fraction} "
                f"({'; '.join(counts.examples)}); mend the file or raise the limit"
            )

    def _finish(self, records: Sequence[ShardRecord]) -> Manifest:
        rejects: Counter[str] = Counter()
        files: dict[str, FileRecord] = {}
        for number, record in enumerate(records):
            rejects.update(record.rejects)
            path = self._record_path(number)
            files |= record.files | {path.name: record_of(path)}
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            corpus=self._folder.name,
            domain=self._corpus.domain,
            licence=self._corpus.licence,
            tokenizer=self._tokenizer.fingerprint,
            vocab_size=self._tokenizer.vocab_size,
            eod_id=self._tokenizer.eod_id,
            dtype=token_dtype(self._tokenizer.vocab_size).name,
            split=asdict(self._policy.rule),
            settings=self._corpus.settings(),
            shards=[_shard_name(number) for number in range(len(records))],
            totals={
                split: sum((record.totals[split] for record in records), Totals())
                for split in SPLITS
            },
            rejects=dict(sorted(rejects.items())),
            files=files,
        )
        manifest.write(self._folder)
        return manifest

    def _record_path(self, number: int) -> Path:
        return self._folder / f"{_shard_name(number)}.json"


def _shard_name(number: int) -> str:
    return f"{number:05d}"


def _identity(shard: RawShard) -> tuple[str, str]:
    return shard.name, shard.fingerprint()


def _clear(folder: Path) -> None:
    # The manifest goes first: a crash in between must not leave a store that looks complete.
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    for pattern in ("[0-9]*.json", "[0-9]*.bin", "[0-9]*.idx"):
        for path in sorted(folder.glob(pattern)):
            path.unlink()


def _remove_temporary(folder: Path) -> None:
    for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
        path.unlink()


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
