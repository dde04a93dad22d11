"""Write the token shard of a staged shard: the documents that stay, split as decided."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.cleaning.decisions import Decision, Verdict
from biomamba.data.document import SPLITS
from biomamba.data.document_facts import FACTS_KIND, Facts, facts_bytes
from biomamba.data.hashed_file import HashedFile
from biomamba.data.manifest import INDEX_DTYPE, FileRecord, Totals
from biomamba.data.staged_shard import StagedShard
from biomamba.runtime.atomic import sync_folder

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
