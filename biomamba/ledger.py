"""Ask which documents a run trained on, from the ledger in its folder.

    python -m biomamba.ledger run=runs/x                          # all of the run
    python -m biomamba.ledger run=runs/x pmid=12345               # one document: when, how often
    python -m biomamba.ledger run=runs/x document=ID source=c4    # by the id of any corpus
    python -m biomamba.ledger run=runs/x compare=runs/y           # two runs

Steps and epochs count from 0. An id is looked up in every source unless one is named, because a
PMID may be the number of a Wikipedia page too. Writes nothing.
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    signals.start_program()

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from biomamba.config.cli import run_cli
from biomamba.data.document import document_key
from biomamba.data.ledger import Ledger, SourceTotals, compare, sightings, totals
from biomamba.data.store.reader import StoredDocument, find_document
from biomamba.reporting.text import (
    comparison,
    coverage,
    sighting_table,
    summary,
    verdict,
)
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.input_files import read_run_record


def main(cfg: DictConfig) -> None:
    """Answer the one question that was asked."""
    asked = [name for name in ("document", "pmid", "compare") if cfg[name] is not None]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} are two questions; ask one at a time")
    if cfg.source is not None and asked not in (["document"], ["pmid"]):
        raise ConfigError("source goes with document or pmid only")
    ledger = Ledger(Path(cfg.run) / "ledger")
    print(f"{coverage(ledger)}\n")
    if cfg.compare is not None:
        print_comparison(cfg.run, ledger, cfg.compare)
    elif asked:
        print_document(ledger, str(cfg[asked[0]]), cfg.source)
    else:
        print_summary(Path(cfg.run), ledger)


def print_summary(run: Path, ledger: Ledger) -> None:
    """Print what the run has trained on, after a comparison with its own record."""
    path = run / "run.json"
    record = read_run_record(path) if path.is_file() else {}
    found = totals(ledger)
    if not ledger.gaps and not ledger.num_unfinished_steps:
        check_realised(found, record.get("realised", {}), path)
    sources = record.get("sources", {})
    print(summary(found, {name: source.get("num_tokens", 0) for name, source in sources.items()}))


def check_realised(
    found: Mapping[str, SourceTotals], realised: Mapping[str, Any], record_path: Path
) -> None:
    """Raise DataError if the ledger lacks or exceeds what the run counted while it trained."""
    for name, counted in realised.items():
        tokens = found[name].tokens if name in found else 0
        if tokens != counted.get("tokens"):
            raise DataError(
                f"the ledger holds {tokens:,} tokens of {name}, but the run counted "
                f"{counted['tokens']:,} ({record_path}): chunks are missing or of another run"
            )


def print_document(ledger: Ledger, document_id: str, source: str | None) -> None:
    """Print when a document was trained on, and where it is if it was not."""
    names = ledger.origin.sources
    if source is not None and source not in names:
        raise ConfigError(f"source is {source!r}; the run has {', '.join(names)}")
    names = names if source is None else [source]
    key = document_key(document_id)
    found = [sighting for sighting in sightings(ledger, key) if sighting.source in names]
    for name in names:
        mine = [sighting for sighting in found if sighting.source == name]
        print(verdict(name, mine, stored_in(ledger.origin.stores.get(name), key)))
    if found:
        print(f"\n{sighting_table(found)}")


def stored_in(folders: list[str] | None, key: int) -> StoredDocument | str | None:
    """Return where the stores of a source hold a document, or why that is not known."""
    if not folders:
        return "the run did not read token stores"
    try:
        return find_document(folders, key)
    except DataError as error:
        return str(error)


def print_comparison(first: str, ledger: Ledger, second: str) -> None:
    """Print how the documents of two runs differ."""
    other = Ledger(Path(second) / "ledger")
    print(f"{coverage(other)}\n")
    ends = (ledger.end_step, other.end_step)
    print(comparison(first, second, compare(ledger, other), last_steps=ends))
    for run, each in ((first, ledger), (second, other)):
        print(f"\n{run}:\n")
        print_summary(Path(run), each)


if __name__ == "__main__":
    run_cli("ledger", main)
