"""The staging of a token store: what became of a raw shard before the whole set is decided.

    staging/NNNNN.bin    token ids of every document in raw order, each with its EOD id
    staging/NNNNN.idx    one STAGED_DTYPE record per document
    staging/NNNNN.bands  uint64, one band of all documents after the other
    staging/NNNNN.hits   one HIT_DTYPE record per benchmark item found in a document
    staging/NNNNN.facts  facts of the documents; only if something is known of one of them
    staging/NNNNN.json   StagedRecord, written last: the commit point

The content is a pure function of the raw shard and the settings of its record. Tokens and facts go
when the store is finished; the rest stays, so that a corpus added later is compared with these
documents too.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.cleaning.item_index import HIT_DTYPE
from biomamba.data.document_facts import FACTS_KIND, DocumentFacts, read_facts
from biomamba.data.manifest import FileRecord, file_problems
from biomamba.data.sealed import read_sealed, write_sealed
from biomamba.runtime.errors import DataError

STAGING_NAME = "staging"
STAGE_VERSION = 1
# end: offset behind the document in tokens; num_bytes: UTF-8 bytes of its text; key and group:
# hashes of the id and of the group; text: hash of the normalised text.
STAGED_DTYPE = np.dtype(
    [("end", "<u8"), ("num_bytes", "<u4"), ("key", "<u8"), ("group", "<u8"), ("text", "<u8")]
)
KINDS = ("bin", "idx", "bands", "hits")
_PASSING_KINDS = ("bin", FACTS_KIND)
BAND_DTYPE = np.dtype("<u8")


@dataclass(frozen=True)
class StagedRecord:
    """The commit record of a staged shard.

    Attributes:
        raw_name: Name of the raw shard.
        raw_fingerprint: What identified its content.
        settings: Everything else that decided the content.
        num_documents: Documents, before any is left out.
        num_bands: Bands per document.
        num_rows: Documents and rejects together.
        rejects: Rows that did not become documents, by reason.
        num_damaged: How many of the rejects were technical faults.
        files: The other files by name.
    """

    raw_name: str
    raw_fingerprint: str
    settings: dict[str, Any]
    num_documents: int
    num_bands: int
    num_rows: int
    rejects: dict[str, int]
    num_damaged: int
    files: dict[str, FileRecord]

    @classmethod
    def read(cls, path: Path) -> "StagedRecord":
        """Read a record, refusing a damaged one.

        Raises:
            DataError: If it is not what was written, or of another version.
        """
        content = read_sealed(path)
        try:
            files = {name: FileRecord(**record) for name, record in content["files"].items()}
            return cls(**{**content, "files": files})
        except (TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path} is no staged record of this version: {error}") from error


@dataclass(frozen=True)
class StagedShard:
    """The files of one staged shard.

    Attributes:
        folder: The staging folder of the store.
        number: Place of the raw shard in its corpus.
    """

    folder: Path
    number: int

    @property
    def name(self) -> str:
        """Name of the token shard, NNNNN."""
        return f"{self.number:05d}"

    @property
    def record_path(self) -> Path:
        """The commit point."""
        return self.folder / f"{self.name}.json"

    def path(self, kind: str) -> Path:
        """Return the file of one of KINDS, or of the facts."""
        return self.folder / f"{self.name}.{kind}"

    def paths(self) -> list[Path]:
        """Return all files of this shard, the record among them."""
        return [self.record_path, *(self.path(kind) for kind in (*KINDS, FACTS_KIND))]

    def write_record(self, record: StagedRecord) -> None:
        """Commit the shard."""
        write_sealed(self.record_path, asdict(record))

    def files(self, record: StagedRecord, *, needs_tokens: bool) -> dict[str, FileRecord]:
        """Return the records of the files that must be there; tokens and facts may be gone."""
        passing = {self.path(kind).name for kind in _PASSING_KINDS}
        return {
            name: file
            for name, file in record.files.items()
            if needs_tokens or name not in passing or (self.folder / name).is_file()
        }

    def problems(self, record: StagedRecord, *, needs_tokens: bool) -> Iterable[str]:
        """Iterate over the deviations of the files from the record."""
        files = self.files(record, needs_tokens=needs_tokens)
        return file_problems(self.folder, files, is_full=True)

    def index(self) -> NDArray[Any]:
        """Read the index, STAGED_DTYPE."""
        return np.fromfile(self.path("idx"), dtype=STAGED_DTYPE)

    def hits(self) -> NDArray[Any]:
        """Read the benchmark hits, HIT_DTYPE."""
        return np.fromfile(self.path("hits"), dtype=HIT_DTYPE)

    def facts(self) -> list[DocumentFacts | None] | None:
        """Read the facts of the documents; None if nothing is known of any."""
        path = self.path(FACTS_KIND)
        return read_facts(path) if path.is_file() else None

    def band(self, band: int, num_documents: int) -> NDArray[Any]:
        """Read one band of all documents."""
        offset = band * num_documents * BAND_DTYPE.itemsize
        path = self.path("bands")
        return np.fromfile(path, dtype=BAND_DTYPE, count=num_documents, offset=offset)

    def remove_tokens(self) -> None:
        """Remove tokens and facts: what only the finishing of the store needs."""
        for kind in _PASSING_KINDS:
            self.path(kind).unlink(missing_ok=True)
