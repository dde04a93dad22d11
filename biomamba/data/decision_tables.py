"""The marks of all staged shards of a set, as the arrays that the decision works on.

Keys and hashes lie in memory, 24 bytes a document. The bands, far more, are laid out band by band
in one unlinked file behind a memory map: a decision reads them one band at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from biomamba.data.cleaning.decisions import ShardTable
from biomamba.data.cleaning.words import Hashes
from biomamba.data.staged_shard import BAND_DTYPE, StagedRecord, StagedShard
from biomamba.runtime.errors import DataError


@dataclass(frozen=True)
class StagedSource:
    """A staged shard and what it belongs to."""

    corpus: str
    domain: str
    staged: StagedShard
    record: StagedRecord


def shard_tables(sources: Sequence[StagedSource], scratch: Path) -> list[ShardTable]:
    """Read the marks of staged shards.

    Args:
        sources: The shards, the corpora in the order of the set.
        scratch: A folder with room for the bands.

    Raises:
        DataError: If there is no room for them.
    """
    bands = _all_bands(sources, scratch)
    tables = []
    first = 0
    for source in sources:
        index = source.staged.index()
        stop = first + index.size
        table = ShardTable(
            corpus=source.corpus,
            domain=source.domain,
            key=np.ascontiguousarray(index["key"]),
            group=np.ascontiguousarray(index["group"]),
            text=np.ascontiguousarray(index["text"]),
            bands=bands[:, first:stop].T,
            hits=source.staged.hits(),
        )
        tables.append(table)
        first = stop
    return tables


def _all_bands(sources: Sequence[StagedSource], scratch: Path) -> Hashes:
    """Return the bands of all documents, `(bands, documents)`."""
    num_documents = sum(source.record.num_documents for source in sources)
    num_bands = max((source.record.num_bands for source in sources), default=0)
    if not num_bands:
        return np.empty((0, num_documents), dtype=BAND_DTYPE)
    try:
        with TemporaryFile(dir=scratch) as file:
            for band in range(num_bands):
                for source in sources:
                    if source.record.num_documents:
                        column = source.staged.band(band, source.record.num_documents)
                        file.write(column.tobytes())
            file.flush()
            shape = (num_bands, num_documents)
            return np.memmap(file, dtype=BAND_DTYPE, mode="r", shape=shape)
    except OSError as error:
        raise DataError(
            f"cannot lay out the near-duplicate bands in {scratch} ({error.strerror}); "
            "make room and run again"
        ) from error
