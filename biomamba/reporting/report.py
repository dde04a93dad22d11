"""A report of training runs and evaluations: its sections, and its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from biomamba.evaluation.comparison import ComparisonSettings
from biomamba.reporting.ablation_section import ablation_section
from biomamba.reporting.abstract_section import abstract_section
from biomamba.reporting.card_section import card_section, cards_markdown
from biomamba.reporting.efficiency_section import efficiency_sections
from biomamba.reporting.families import families_of
from biomamba.reporting.metadata_section import MetadataSettings, metadata_section
from biomamba.reporting.origin_section import origin_section
from biomamba.reporting.paper import Paper
from biomamba.reporting.report_html import report_html
from biomamba.reporting.report_inputs import ReportInputs
from biomamba.reporting.report_markdown import report_markdown
from biomamba.reporting.report_scores import report_scores
from biomamba.reporting.reproduction_cards import Card, cards_of, format_cards
from biomamba.reporting.run_groups import run_groups
from biomamba.reporting.run_sections import curves_section, summary_section
from biomamba.reporting.scaling_section import scaling_section
from biomamba.reporting.score_sections import forgetting_section, perplexity_section
from biomamba.reporting.section import Picture, Section, Table
from biomamba.reporting.task_sections import tasks_section
from biomamba.reporting.tradeoff_sections import frontier_section
from biomamba.runtime.atomic import write_bytes, write_text
from biomamba.runtime.errors import ConfigError


@dataclass(frozen=True)
class ReportSettings:
    """What a report shows.

    domain is the source that models were adapted to; num_listed documents of each source are
    listed as the worst and as the best; num_refits is how often a scaling fit is repeated on
    resampled documents; families maps names to patterns of recipes that answer one question, the
    reference first (None: by the names of experiments); papers hold published values for cards.
    """

    domain: str = "pubmed"
    num_listed: int = 5
    num_refits: int = 200
    families: dict[str, list[str]] | None = None
    papers: dict[str, Paper] = field(default_factory=dict)
    metadata: MetadataSettings = field(default_factory=MetadataSettings)
    comparison: ComparisonSettings = field(default_factory=ComparisonSettings)

    def __post_init__(self) -> None:
        for name, least in (("num_listed", 1), ("num_refits", 20)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Report:
    """The sections of a report, and the cards that become files of their own."""

    sections: Sequence[Section]
    cards: Sequence[Card] = ()


def report_of(inputs: ReportInputs, settings: ReportSettings, own: Mapping[str, Any]) -> Report:
    """Return the report; `own` is its own provenance.

    Raises:
        ConfigError: The reference is none of the models.
        DataError: A checkpoint was scored twice on a source with different figures.
    """
    groups = run_groups(inputs.runs)
    scores, comparison = report_scores(inputs.evaluations, groups), settings.comparison
    families = families_of(groups, settings.families)
    if comparison.reference is not None and comparison.reference not in scores.models:
        known = ", ".join(scores.models) or "none with scores of documents"
        raise ConfigError(f"reference is {comparison.reference!r}; the models are {known}")
    bootstrap = replace(comparison.bootstrap, num_resamples=settings.num_refits)
    cards = cards_of(settings.papers, scores, inputs.evaluations, comparison.bootstrap)
    sections = [
        abstract_section(scores, inputs.evaluations, settings.domain, comparison),
        ablation_section(families, scores, comparison),
        frontier_section(scores, settings.domain, comparison.bootstrap),
        scaling_section(scores, bootstrap),
        tasks_section(inputs.evaluations, scores.trained),
        card_section(cards),
        perplexity_section(scores, comparison),
        forgetting_section(scores, comparison, settings.num_listed),
        metadata_section(scores, inputs.evaluations, inputs.runs, comparison, settings.metadata),
        *efficiency_sections(inputs.measured),
        summary_section(groups),
        curves_section(groups, families),
    ]
    return Report([*sections, origin_section(inputs, sections, own)], cards)


def write_report(folder: Path, title: str, subtitle: str, report: Report) -> None:
    """Write report.html, report.md, every table and picture by its name, and the cards."""
    sections = report.sections
    for section in sections:
        for part in section.parts:
            if isinstance(part, Table):
                write_text(folder / f"{part.name}.csv", part.csv())
            elif isinstance(part, Picture):
                write_bytes(folder / f"{part.name}.png", part.png)
    if report.cards:
        write_text(folder / "reproduction_cards.md", cards_markdown(report.cards))
        write_text(folder / "reproduction_cards.json", format_cards(report.cards))
    write_text(folder / "report.md", report_markdown(title, subtitle, sections))
    write_text(folder / "report.html", report_html(title, subtitle, sections))
