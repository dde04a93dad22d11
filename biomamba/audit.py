"""Count what prompts leak and what generated texts repeat; no text is printed or written.

    python -m biomamba.audit task=[discharge_summary,discharge_summary_paper] paths.raw_dir=data/raw
    python -m biomamba.audit texts=texts.jsonl corpus=[mimic_discharge] paths.raw_dir=data/raw

The first counts the items whose prompt holds what is to be written, and writes leakage.json. The
second compares texts of biomamba.generate with the notes of corpora, before the texts are shown to
anyone, and writes verbatim.json. docs/clinical.md tells how to read the counts.
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    signals.start_program()

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig

from biomamba.config.check import build
from biomamba.config.cli import run_cli
from biomamba.config.run_settings import plain_parts
from biomamba.data.corpora.corpus import Corpus
from biomamba.data.document import Document
from biomamba.evaluation.leakage import LeakageSettings, audit_leakage, leakage_record
from biomamba.evaluation.verbatim import VerbatimAudit, read_texts
from biomamba.reporting.tables import leakage_table, verbatim_table
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.files import write_json
from biomamba.tasks.clinical_notes import WritingTask
from biomamba.tasks.task import Task
from biomamba.training.lineage import keep_private


def main(cfg: DictConfig) -> None:
    """Do the audits that are asked for."""
    if not cfg.tasks and cfg.texts is None:
        raise ConfigError("nothing to audit: give task=[...], or texts=<.jsonl> with corpus=[...]")
    if (cfg.texts is None) != (not cfg.corpora):
        raise ConfigError("texts=<.jsonl> and corpus=[...] go together: texts and notes to compare")
    folder = Path(cfg.paths.run_dir)
    keep_private(plain_parts(cfg), folder)
    if cfg.tasks:
        _audit_tasks(
            {name: build(node) for name, node in cfg.tasks.items()}, build(cfg.leakage), folder
        )
    if cfg.texts is not None:
        corpora = [build(node) for node in cfg.corpora.values()]
        _audit_texts(
            VerbatimAudit(read_texts(Path(cfg.texts)), build(cfg.verbatim)), corpora, folder
        )


def _audit_tasks(tasks: Mapping[str, Task], settings: LeakageSettings, folder: Path) -> None:
    records = {}
    for name, task in tasks.items():
        if not isinstance(task, WritingTask):
            raise ConfigError(f"task {name} writes no text: its prompts have nothing to leak")
        found = audit_leakage(task, settings)
        records[name] = leakage_record(task, found)
        print(f"\n{leakage_table(name, found)}")
    path = folder / "leakage.json"
    write_json(path, {"settings": asdict(settings), "tasks": records})
    print(f"\ncounts: {path}")


def _audit_texts(audit: VerbatimAudit, corpora: list[Corpus], folder: Path) -> None:
    for note in _notes(corpora):
        audit.add(note.text)
    found = audit.results()
    path = folder / "verbatim.json"
    texts = {name: asdict(each) for name, each in found.items() if each.longest_run_words}
    write_json(
        path,
        {
            "settings": asdict(audit.settings),
            "num_notes": audit.num_notes,
            "num_texts": len(found),
            "repeating_texts": texts,
        },
    )
    print(f"\n{verbatim_table(found, audit.num_notes)}\n\ncounts and hashes: {path}")


def _notes(corpora: list[Corpus]) -> Iterator[Document]:
    for corpus in corpora:
        for shard in corpus.shards():
            for found in corpus.documents(shard):
                if isinstance(found, Document):
                    yield found


if __name__ == "__main__":
    run_cli("audit", main)
