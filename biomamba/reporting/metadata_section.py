"""Held-out documents by year of publication and by subject, from what their records say.

Facts come from the files that an evaluation keeps beside its scores: no store is read, no text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from biomamba.data.document_facts import DocumentFacts
from biomamba.evaluation.comparison import ComparisonSettings, Models
from biomamba.evaluation.document_facts import DOCUMENT_FACTS, read_document_facts
from biomamba.metrics.interval import Bootstrap
from biomamba.reporting.metadata_figures import (
    GroupFigure,
    ScoredSource,
    group_figures,
    with_holm,
)
from biomamba.reporting.metadata_groups import (
    Groups,
    Known,
    MeshTree,
    by_subject,
    by_year,
    large_groups,
    unknown_descriptors,
)
from biomamba.reporting.metadata_plots import subjects_plot, years_plot
from biomamba.reporting.metadata_tables import figures_table
from biomamba.reporting.report_inputs import Evaluation
from biomamba.reporting.report_scores import ReportScores
from biomamba.reporting.section import Part, Picture, Section
from biomamba.reporting.training_run import TrainingRun
from biomamba.runtime.errors import DataError

TITLE = "By year and subject"
NO_FACTS = (
    "No evaluation knows year or subjects of its documents: stores of corpora that tell them "
    "(medline, or a year_column), prepared and evaluated, fill this section."
)


@dataclass(frozen=True)
class MetadataSettings:
    """How documents are grouped.

    Groups of fewer than min_documents documents are counted only, as are those behind the
    num_subjects largest subjects; mesh_tree is NLM's file of MeSH trees (None: by descriptor), and
    mesh_depth the depth of their branches: 1 as C04, 2 as C04.588. newest_year marks the youngest
    document trained on (None: as the training runs tell).
    """

    min_documents: int = 20
    num_subjects: int = 30
    mesh_tree: str | None = None
    mesh_depth: int = 1
    newest_year: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("min_documents", 2), ("num_subjects", 1), ("mesh_depth", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class ReportFacts:
    """What is known of documents, by source and key, and the files that tell it."""

    sources: Mapping[str, Mapping[str, DocumentFacts]]
    files: Sequence[str]


def metadata_section(
    scores: ReportScores,
    evaluations: Sequence[Evaluation],
    runs: Sequence[TrainingRun],
    comparison: ComparisonSettings,
    settings: MetadataSettings,
) -> Section:
    """Return figures by year and by subject of every source whose documents have facts.

    Raises:
        ConfigError: The file of MeSH trees is missing.
        DataError: It or a file of facts is damaged, or of other documents than the scores.
    """
    facts = report_facts(evaluations)
    tree = None if settings.mesh_tree is None else MeshTree.read(Path(settings.mesh_tree))
    newest = newest_years(runs, settings)
    parts: list[Part] = []
    for number, panel in enumerate(scores.panels, start=1):
        sources = [name for name in next(iter(panel.values()))[0].scored if name in facts.sources]
        if sources:
            view = _View(panel, sources, facts, comparison, settings)
            suffix = "" if number == 1 else f"_{number}"
            parts += view.years(f"years{suffix}", newest)
            parts += view.subjects(f"subjects{suffix}", tree)
    return Section(TITLE, parts or [NO_FACTS])


def report_facts(evaluations: Sequence[Evaluation]) -> ReportFacts:
    """Read the facts of all evaluations; of a document of several the first one tells.

    Raises:
        DataError: A file is damaged, or of other documents than the records beside it.
    """
    sources: dict[str, dict[str, DocumentFacts]] = {}
    files = []
    for evaluation in evaluations:
        scored = {record.source: record.provenance for record in evaluation.records}
        for path in sorted((evaluation.folder / DOCUMENT_FACTS).glob("*.json")):
            found = read_document_facts(path)
            if found.source not in scored:
                continue  # of an earlier evaluation of other sources
            if scored[found.source].get("data_fingerprint") != found.data_fingerprint:
                raise DataError(
                    f"{path}: of other documents than the results beside it; evaluate again into "
                    "another folder"
                )
            files.append(str(path))
            sources[found.source] = {**found.facts, **sources.get(found.source, {})}
    return ReportFacts(sources, files)


def newest_years(runs: Sequence[TrainingRun], settings: MetadataSettings) -> dict[str, int]:
    """Return the newest year of the training documents of every run that tells it."""
    if settings.newest_year is not None:
        return {"training": settings.newest_year}
    newest = {}
    for run in runs:
        data = run.record.get("data")
        stores = data.get("stores") if isinstance(data, Mapping) else None
        pools = stores.values() if isinstance(stores, Mapping) else ()
        told = [store.get("newest_year") for pool in pools for store in pool]
        years = [year for year in told if isinstance(year, int)]
        if years:
            newest[run.name] = max(years)
    return newest


class _View:
    """The models of a panel on the sources whose documents have facts."""

    def __init__(
        self,
        panel: Models,
        sources: Sequence[str],
        facts: ReportFacts,
        comparison: ComparisonSettings,
        settings: MetadataSettings,
    ) -> None:
        names = list(panel)
        self._reference = next((n for n in names if n == comparison.reference), names[0])
        self._bootstrap: Bootstrap = comparison.bootstrap
        self._settings = settings
        self._files = facts.files
        self._scored = [ScoredSource.of(panel, source) for source in sources]
        self._known: dict[str, Known] = {
            each.source: [facts.sources[each.source].get(key) for key in each.keys]
            for each in self._scored
        }

    def years(self, name: str, newest: Mapping[str, int]) -> list[Part]:
        """Return the table and the picture by year, and what they leave out."""
        groups = {source: by_year(known) for source, known in self._known.items()}
        shown = {source: self._large(found) for source, found in groups.items()}
        figures = self._figures(shown)
        notes: list[Part] = [self._year_note(source, groups[source]) for source in groups]
        if not figures:
            return notes
        caption = (
            "Held-out documents by the year of their publication"
            + self._explanation()
            + " Years differ in their documents too: the change compares models on the same ones."
        )
        mark = "A dashed line stands behind the newest year of a training run. " if newest else ""
        picture = Picture(
            name=f"{name}_curve",
            caption=f"Bits per byte by year, and their change. {mark}Bands are intervals.",
            png=years_plot(figures, newest),
            files=self._files,
        )
        told = [f"The newest training document of {run} is of {newest[run]}." for run in newest]
        return [picture, *told, figures_table(name, caption, "year", figures, self._files), *notes]

    def subjects(self, name: str, tree: MeshTree | None) -> list[Part]:
        """Return the table and a picture per source by MeSH branch or descriptor."""
        depth = self._settings.mesh_depth
        groups = {source: by_subject(known, tree, depth) for source, known in self._known.items()}
        shown = {
            source: dict(list(self._large(found).items())[: self._settings.num_subjects])
            for source, found in groups.items()
        }
        figures = with_holm(self._figures(shown))
        notes: list[Part] = [
            self._subject_note(source, groups[source], len(shown[source]), tree)
            for source in groups
            if groups[source]
        ]
        if not figures:
            return notes
        kind = "descriptor" if tree is None else "branch"
        caption = (
            f"Held-out documents by MeSH {kind}{self._explanation()} A document counts in each of "
            f"its {'descriptors' if tree is None else 'branches'}. p is two-sided; p (Holm) is "
            f"corrected for all {sum(f.change is not None for f in figures)} changes of this table."
        )
        return [
            *self._maps(name, figures),
            figures_table(name, caption, kind, figures, self._files),
            *notes,
        ]

    def _maps(self, name: str, figures: Sequence[GroupFigure]) -> list[Part]:
        changed = dict.fromkeys(f.source for f in figures if f.change is not None)
        return [
            Picture(
                name=f"{name}_map" if number == 1 else f"{name}_map_{number}",
                caption=f"{source}: bits per byte minus those of {self._reference} (documents in "
                "brackets); below zero is better, * marks p (Holm) < 0.05.",
                png=subjects_plot([f for f in figures if f.source == source]),
                files=self._files,
            )
            for number, source in enumerate(changed, start=1)
        ]

    def _large(self, groups: Groups) -> Groups:
        return large_groups(groups, self._settings.min_documents)

    def _figures(self, shown: Mapping[str, Groups]) -> list[GroupFigure]:
        return [
            figure
            for scored in self._scored
            for figure in group_figures(
                scored, shown[scored.source], self._reference, self._bootstrap
            )
        ]

    def _explanation(self) -> str:
        return (
            f", groups of at least {self._settings.min_documents}: figures with their "
            f"{self._bootstrap.level:.0%} intervals over documents; change is bits per byte minus "
            f"those of {self._reference}, below zero is better."
        )

    def _year_note(self, source: str, groups: Groups) -> str:
        known = self._known[source]
        shown = self._large(groups)
        dated, inside = (sum(map(len, found.values())) for found in (groups, shown))
        return (
            f"{source}: {dated:,} of {len(known):,} documents have a year; "
            f"{len(groups) - len(shown):,} of {len(groups):,} years have fewer than "
            f"{self._settings.min_documents} documents ({dated - inside:,} together)."
        )

    def _subject_note(
        self, source: str, groups: Groups, num_shown: int, tree: MeshTree | None
    ) -> str:
        known = self._known[source]
        indexed = sum(bool(facts and facts.mesh) for facts in known)
        note = (
            f"{source}: {indexed:,} of {len(known):,} documents have MeSH descriptors; of "
            f"{len(groups):,} subjects {len(self._large(groups)):,} have at least "
            f"{self._settings.min_documents} documents, and {num_shown:,} are shown."
        )
        if tree is not None:
            missing, of_all = unknown_descriptors(known, tree)
            note += f" Of {of_all:,} descriptors {missing:,} are not in the trees under their name."
        return note
