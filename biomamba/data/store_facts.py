"""What a published model must say about a token store that it was trained on."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from biomamba.data.document_facts import FACTS_KIND, read_years
from biomamba.data.manifest import Manifest
from biomamba.data.sealed import read_sealed
from biomamba.runtime.errors import DataError

CONTAMINATION_NAME = "contamination.json"
# HubRows writes dataset@commit:name:split behind this key; with data_files there is no commit.
_HUB_ROWS = re.compile(r"(?P<dataset>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40}):")


@dataclass(frozen=True, kw_only=True)
class StoreFacts:
    """One corpus of a training run.

    Attributes:
        corpus: Its name.
        domain: Kind of text.
        licence: Terms of use, as its manifest has them.
        documents: Of the training split; so are tokens and bytes.
        dataset: Hub id; None for local files.
        revision: Commit of the dataset.
        benchmarks: What was kept out, with the number of items and of those that were found where
            that is known; None if nothing was looked for.
        rejects: Rows that are not in the store, by reason.
        newest_year: Of the documents of the training split; None if no year is known.
        benchmark_files: Hash of each benchmark file whose items were kept out, by benchmark and
            name; empty if there is none, None if that is not known.
    """

    corpus: str
    domain: str
    licence: str
    documents: int
    tokens: int
    bytes: int
    dataset: str | None
    revision: str | None
    benchmarks: Mapping[str, Mapping[str, int]] | None
    rejects: Mapping[str, int]
    newest_year: int | None = None
    benchmark_files: Mapping[str, str] | None = None

    @classmethod
    def of(cls, manifest: Manifest, folder: Path) -> "StoreFacts":
        """Collect the facts of a store in a folder."""
        train = manifest.totals["train"]
        hub = _HUB_ROWS.match(str(manifest.settings.get("rows", {}).get("dataset", "")))
        return cls(
            corpus=manifest.corpus,
            domain=manifest.domain,
            licence=manifest.licence,
            documents=train.documents,
            tokens=train.tokens,
            bytes=train.bytes,
            dataset=hub["dataset"] if hub else None,
            revision=hub["revision"] if hub else None,
            benchmarks=_benchmarks(manifest.cleaning, folder.parent / CONTAMINATION_NAME),
            rejects=manifest.rejects,
            newest_year=_newest_year(manifest, folder),
            benchmark_files=benchmark_files(manifest.cleaning),
        )

    @classmethod
    def read(cls, folder: Path) -> "StoreFacts":
        """Read the facts of a store.

        Raises:
            DataError: It is missing, unfinished or damaged.
        """
        return cls.of(Manifest.read(folder), folder)

    def as_record(self) -> dict[str, Any]:
        """Return plain values for the record of a run."""
        return asdict(self)


def benchmark_files(cleaning: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the hash of each benchmark file that the settings of a cleaning name.

    By benchmark and name; empty where no benchmark is kept out, None where nothing is said of it.
    """
    firewall = cleaning.get("firewall")
    if not isinstance(firewall, Mapping):
        return None
    return {
        f"{name}/{file}": digest
        for name, benchmark in firewall.get("benchmarks", {}).items()
        for file, digest in benchmark.get("files", {}).items()
    }


def _newest_year(manifest: Manifest, folder: Path) -> int | None:
    names = [name for name in manifest.files if name.endswith(f".train.{FACTS_KIND}")]
    return max((year for name in names for year in read_years(folder / name)), default=None)


def _benchmarks(cleaning: Mapping[str, Any], report_path: Path) -> dict[str, dict[str, int]] | None:
    """Return the benchmarks that were kept out; counts only from the report of this store."""
    firewall = cleaning.get("firewall")
    if not firewall or not firewall.get("benchmarks"):
        return None
    try:
        report = read_sealed(report_path)
    except DataError:
        report = {}
    is_its_own = report.get("settings", {}).get("firewall") == firewall
    counts = report.get("benchmarks", {}) if is_its_own else {}
    return {
        name: {key: counts[name][key] for key in ("items", "items_found")} if name in counts else {}
        for name in firewall["benchmarks"]
    }
