"""One token store: what is committed of it, and how it is finished once the set is decided.

The output is a pure function of the raw bytes, the settings and the decisions about the whole set:
raw shard k becomes token shard k, whatever was interrupted in between. The caller holds the lock.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.cleaning.decisions import Decision, StagedSource, Verdict
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.corpora.corpus import Corpus
from biomamba.data.document import FACTS_KIND, SPLITS, Facts, SplitRule, facts_bytes
from biomamba.data.prepare.staging import (
    STAGING_NAME,
    StagedRecord,
    StagedShard,
    StageRules,
    StageTask,
    other_raw,
    refuse_difference,
    refuse_other_staging,
)
from biomamba.data.rows import RawShard
from biomamba.data.store.format import (
    FORMAT_VERSION,
    INDEX_DTYPE,
    MANIFEST_NAME,
    FileRecord,
    HashedFile,
    Manifest,
    ShardRecord,
    Totals,
    file_problems,
    record_of,
    token_dtype,
)
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import TEMPORARY_SUFFIX, sync_folder
from biomamba.runtime.numbers import check_number
from biomamba.runtime.provenance import code_version

# -------------------------------------------------------------------------------------------------
# Write the token shard of a staged shard: the documents that stay, split as decided.
# -------------------------------------------------------------------------------------------------

_TOKENS_PER_BLOCK = 1 << 22


def write_token_shard(
    folder: Path, staged: StagedShard, decision: Decision, dtype: np.dtype[Any]
) -> tuple[dict[str, FileRecord], dict[str, Totals]]:
    """Write the files of one token shard.

    Args:
        folder: The store.
        staged: The staged shard, with its tokens.
        decision: What becomes of its documents.
        dtype: Type of the token ids.

    Returns:
        The records of the files, and what each split holds.

    Raises:
        OSError: If the disk is full or the folder cannot be written; no temporary file stays.
    """
    index, facts = staged.index(), staged.facts()
    files: dict[str, FileRecord] = {}
    totals = dict.fromkeys(SPLITS, Totals())
    for place, split in enumerate(SPLITS):
        is_chosen = (decision.verdict == Verdict.KEPT) & (decision.split == place)
        if is_chosen.any():
            stem = folder / f"{staged.name}.{split}"
            blocks = _chosen_tokens(staged.path("bin"), index["end"], is_chosen, dtype)
            files |= _write_files(
                stem, blocks, _split_index(index, is_chosen), _chosen_facts(facts, is_chosen)
            )
            totals[split] = _totals(index, is_chosen)
    sync_folder(folder)
    return files, totals


def decision_hash(decision: Decision) -> str:
    """Hash what was decided about the documents of one shard."""
    return sha256(decision.verdict.tobytes() + decision.split.tobytes()).hexdigest()


def count_verdicts(decision: Decision) -> dict[str, int]:
    """Count the documents that are left out, by reason."""
    counts = np.bincount(decision.verdict, minlength=len(Verdict))
    return {
        verdict.reason: int(counts[verdict])
        for verdict in Verdict
        if verdict != Verdict.KEPT and counts[verdict]
    }


def document_lengths(end: NDArray[Any]) -> NDArray[np.int64]:
    """Return the tokens of each document from the end offsets, `(documents,)`."""
    lengths = end.astype(np.int64)
    lengths[1:] -= end[:-1].astype(np.int64)
    return lengths


def _chosen_tokens(
    path: Path, end: NDArray[Any], is_chosen: NDArray[np.bool_], dtype: np.dtype[Any]
) -> Iterator[NDArray[Any]]:
    ends = end.astype(np.int64)
    starts = ends - document_lengths(end)
    tokens = np.memmap(path, dtype=dtype, mode="r")
    for start in range(0, int(ends[-1]), _TOKENS_PER_BLOCK):
        stop = min(start + _TOKENS_PER_BLOCK, int(ends[-1]))
        first, last = np.searchsorted(ends, [start, stop - 1], "right")
        own = slice(first, last + 1)  # the documents with a token in the block
        counts = np.minimum(ends[own], stop) - np.maximum(starts[own], start)
        yield tokens[start:stop][np.repeat(is_chosen[own], counts)]


def _split_index(index: NDArray[Any], is_chosen: NDArray[np.bool_]) -> NDArray[Any]:
    chosen = np.empty(int(is_chosen.sum()), dtype=INDEX_DTYPE)
    chosen["end"] = np.cumsum(document_lengths(index["end"])[is_chosen])
    chosen["num_bytes"] = index["num_bytes"][is_chosen]
    chosen["key"] = index["key"][is_chosen]
    return chosen


def _totals(index: NDArray[Any], is_chosen: NDArray[np.bool_]) -> Totals:
    return Totals(
        documents=int(is_chosen.sum()),
        tokens=int(document_lengths(index["end"])[is_chosen].sum()),
        bytes=int(index["num_bytes"][is_chosen].astype(np.int64).sum()),
    )


def _chosen_facts(facts: Facts | None, is_chosen: NDArray[np.bool_]) -> bytes | None:
    if facts is None:
        return None
    return facts_bytes([facts[number] for number in np.flatnonzero(is_chosen).tolist()])


def _write_files(
    stem: Path, blocks: Iterator[NDArray[Any]], index: NDArray[Any], facts: bytes | None
) -> dict[str, FileRecord]:
    kinds = ("bin", "idx") if facts is None else ("bin", "idx", FACTS_KIND)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    files: list[HashedFile] = []
    try:
        files.extend(HashedFile(path) for path in paths)
        for block in blocks:
            files[0].write(block)
        files[1].write(index)
        if facts is not None:
            files[2].write(np.frombuffer(facts, dtype=np.uint8))
        return {path.name: file.commit() for path, file in zip(paths, files, strict=True)}
    finally:
        for file in files:
            file.discard()


# -------------------------------------------------------------------------------------------------
# One token store: what is committed of it, and how it is finished once the set is decided.
# -------------------------------------------------------------------------------------------------

_KINDS = ("bin", "idx", FACTS_KIND)  # what a token shard may have of a split


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
        check_number("max_bad_fraction", self.max_bad_fraction, at_least=0, at_most=1)
        _ = self.rule

    @property
    def rule(self) -> SplitRule:
        """The split rule alone."""
        return SplitRule(self.val_permille, self.test_permille)


@dataclass(frozen=True)
class Store:
    """The store of one corpus, finished or on its way.

    Attributes:
        folder: The store; its name is that of the corpus in the set.
        corpus: Where the documents come from.
        shards: The raw shards of the corpus.
        tokenizer: Encodes the texts.
        policy: Split and tolerance.
        cleaning: Marks the documents and says what is left out.
    """

    folder: Path
    corpus: Corpus
    shards: Sequence[RawShard]
    tokenizer: Tokenizer
    policy: StorePolicy
    cleaning: Cleaning

    @property
    def name(self) -> str:
        """Name of the corpus in its set."""
        return self.folder.name

    @property
    def staged(self) -> list[StagedShard]:
        """The staging of every raw shard."""
        folder = self.folder / STAGING_NAME
        return [StagedShard(folder, number) for number in range(len(self.shards))]

    @cached_property
    def staging_settings(self) -> dict[str, Any]:
        """What decides the staging; hashes the benchmark files once."""
        return self.stage_rules().settings()

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the token shards, apart from the raw bytes and the other documents."""
        return self.staging_settings | {
            "format_version": FORMAT_VERSION,
            "split": asdict(self.policy.rule),
            "licence": self.corpus.licence,
        }

    def stage_rules(self, *, is_rebuild: bool = False) -> StageRules:
        """Return how the raw shards are staged."""
        return StageRules(
            self.folder / STAGING_NAME,
            self.corpus,
            self.tokenizer,
            self.cleaning,
            self.policy.max_bad_fraction,
            is_rebuild=is_rebuild,
        )

    def stage_tasks(self) -> list[StageTask]:
        """Return one task per raw shard."""
        return [
            StageTask(self.name, number, shard, not self._record_path(staged).is_file())
            for number, (shard, staged) in enumerate(zip(self.shards, self.staged, strict=True))
        ]

    def refuse_other_settings(self) -> None:
        """Compare the records with what is asked for, without reading raw data or tokens.

        Raises:
            DataError: If a shard was written under other settings or from another raw shard.
        """
        for path in sorted(self.folder.glob("[0-9]*.json")):
            record = ShardRecord.read(path)
            refuse_difference(path, record.settings, self.settings)
            number = int(path.stem)
            asked = self.shards[number].name if number < len(self.shards) else "no such raw shard"
            if record.raw_name != asked:
                raise other_raw(path, record.raw_name, asked)
        refuse_other_staging(self.stage_rules(), self.shards, self.staging_settings)

    def clear(self) -> None:
        """Remove the token shards, and the staging of raw shards that are no longer there."""
        # The manifest goes first: a crash in between must not leave a store that looks complete.
        (self.folder / MANIFEST_NAME).unlink(missing_ok=True)
        for pattern in ("[0-9]*.json", *(f"[0-9]*.{kind}" for kind in _KINDS)):
            for path in sorted(self.folder.glob(pattern)):
                path.unlink()
        names = {staged.name for staged in self.staged}
        for path in sorted((self.folder / STAGING_NAME).glob("[0-9]*")):
            if path.name.split(".")[0] not in names:
                path.unlink()

    def remove_temporary(self) -> None:
        """Remove what killed writers left; nobody else may be at work."""
        for path in self.folder.rglob(f"*{TEMPORARY_SUFFIX}"):
            path.unlink()

    def sources(self) -> list[StagedSource]:
        """Return the staged shards; all of them must be staged."""
        return [
            StagedSource(
                self.name, self.corpus.domain, staged, StagedRecord.read(staged.record_path)
            )
            for staged in self.staged
        ]

    def committed(
        self, sources: Sequence[StagedSource], decisions: Sequence[Decision]
    ) -> list[ShardRecord | None]:
        """Read the token shards that are committed, None for the others.

        Raises:
            DataError: If one is damaged, was made from other raw content, or other decisions were
                taken then: another corpus of the set changes what is a duplicate.
        """
        records: list[ShardRecord | None] = []
        for source, decision in zip(sources, decisions, strict=True):
            path = self._record_path(source.staged)
            record = ShardRecord.read(path) if path.is_file() else None
            if record is not None:
                self._check_committed(path, record, source.record, decision_hash(decision))
            records.append(record)
        return records

    def finish_shard(self, source: StagedSource, decision: Decision) -> ShardRecord:
        """Write and commit one token shard.

        Raises:
            DataError: If the disk is full or the folder cannot be written.
        """
        staged = source.staged
        try:
            (self.folder / MANIFEST_NAME).unlink(missing_ok=True)
            for split in SPLITS:  # left by a crash between the first file and the record
                for kind in _KINDS:
                    (self.folder / f"{staged.name}.{split}.{kind}").unlink(missing_ok=True)
            dtype = token_dtype(self.tokenizer.vocab_size)
            files, totals = write_token_shard(self.folder, staged, decision, dtype)
        except OSError as error:
            raise DataError(
                f"cannot write token shard {staged.name} of {self.folder} ({error.strerror}); "
                "the committed shards are safe, make room or fix the rights, and run again"
            ) from error
        rejects = Counter(source.record.rejects) + Counter(count_verdicts(decision))
        record = ShardRecord(
            raw_name=source.record.raw_name,
            raw_fingerprint=source.record.raw_fingerprint,
            settings=self.settings,
            decisions=decision_hash(decision),
            totals=totals,
            rejects=dict(sorted(rejects.items())),
            num_damaged=source.record.num_damaged,
            files=files,
        )
        record.write(self._record_path(staged))
        return record

    def finish(self, records: Sequence[ShardRecord]) -> Manifest:
        """Write the manifest over all token shards; then drop what is no longer needed."""
        manifest = self._manifest(records)
        if not self._has_manifest(manifest):
            manifest.write(self.folder)
        for staged in self.staged:
            staged.remove_tokens()
        return Manifest.read(self.folder)

    def _check_committed(
        self, path: Path, record: ShardRecord, staged: StagedRecord, decisions: str
    ) -> None:
        refuse_difference(path, record.settings, self.settings)
        found = (record.raw_name, record.raw_fingerprint)
        asked = (staged.raw_name, staged.raw_fingerprint)
        if found != asked:
            raise other_raw(path, found, asked)
        if record.decisions != decisions:
            raise DataError(
                f"{path} was written when other documents of the set were left out or split "
                "otherwise (a corpus or raw shard was added or removed, or their order changed); "
                "choose another name, or set overwrite=true to rebuild the store"
            )
        problems = list(file_problems(self.folder, record.files, is_full=True))
        if problems:
            raise DataError(
                f"token store {self.folder} is damaged: {'; '.join(problems)}; "
                "set overwrite=true to rebuild it"
            )

    def _manifest(self, records: Sequence[ShardRecord]) -> Manifest:
        rejects: Counter[str] = Counter()
        files: dict[str, FileRecord] = {}
        for staged, record in zip(self.staged, records, strict=True):
            rejects.update(record.rejects)
            path = self._record_path(staged)
            files |= record.files | {path.name: record_of(path)}
        return Manifest(
            format_version=FORMAT_VERSION,
            corpus=self.name,
            domain=self.corpus.domain,
            licence=self.corpus.licence,
            tokenizer=self.tokenizer.fingerprint,
            vocab_size=self.tokenizer.vocab_size,
            eod_id=self.tokenizer.eod_id,
            dtype=token_dtype(self.tokenizer.vocab_size).name,
            split=asdict(self.policy.rule),
            settings=self.staging_settings["corpus"],
            cleaning=self.staging_settings["cleaning"],
            code=code_version(),
            shards=[staged.name for staged in self.staged],
            totals={
                split: sum((record.totals[split] for record in records), Totals())
                for split in SPLITS
            },
            rejects=dict(sorted(rejects.items())),
            files=files,
        )

    def _has_manifest(self, manifest: Manifest) -> bool:
        """Say whether the store has this manifest already, whatever code wrote it."""
        try:
            return replace(Manifest.read(self.folder), code=manifest.code) == manifest
        except DataError:  # none yet, of another version, or damaged
            return False

    def _record_path(self, staged: StagedShard) -> Path:
        return self.folder / f"{staged.name}.json"
