"""A report of training runs and evaluations: order of sections, HTML and Markdown files."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from biomamba.evaluation.comparison import ComparisonSettings
from biomamba.reporting.ablations import ablation_section
from biomamba.reporting.efficiency import efficiency_sections
from biomamba.reporting.groups import families_of, run_groups
from biomamba.reporting.inputs import ReportInputs
from biomamba.reporting.metadata import MetadataSettings, metadata_section
from biomamba.reporting.paper import Paper, abstract_section
from biomamba.reporting.reproduction import (
    Card,
    card_section,
    cards_markdown,
    cards_of,
    format_cards,
)
from biomamba.reporting.score_sections import (
    forgetting_section,
    frontier_section,
    perplexity_section,
    scaling_section,
)
from biomamba.reporting.scores import report_scores
from biomamba.reporting.section import Part, Picture, Section, Table, labels_of
from biomamba.reporting.tables import markdown_table
from biomamba.reporting.task_sections import tasks_section
from biomamba.reporting.training_sections import curves_section, origin_section, summary_section
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.files import write_bytes, write_text

# -------------------------------------------------------------------------------------------------
# A report as one HTML file that needs nothing else: no server, no script, no other file.
# -------------------------------------------------------------------------------------------------

ABSTRACT = "in-short"  # anchor of the section that is above the contents
_PNG_WIDTH = slice(16, 20)  # bytes of a PNG that hold its width
_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5c6470; --line: #d9dde3;
  --page: #ffffff; --band: #f5f7f9; --link: #0060a8; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7eb; --soft: #9aa4b2; --line: #3a414b;
  --page: #15181c; --band: #1e2328; --link: #7cc0ff; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.5rem 1.1rem 4rem; max-width: 72rem; background: var(--page);
  color: var(--text); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .5rem 0 .2rem; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .6rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
p { max-width: 44rem; margin: .6rem 0; overflow-wrap: break-word; }
a { color: var(--link); }
nav ol { padding-left: 1.4rem; line-height: 1.8; margin: .8rem 0; }
.soft, figcaption { color: var(--soft); }
figure { margin: 1.4rem 0; }
figcaption { font-size: .9rem; max-width: 48rem; margin-bottom: .5rem; }
figcaption b { color: var(--text); }
#in-short { background: var(--band); border-radius: .6rem; padding: .2rem 1.1rem .6rem;
  margin: 1.2rem 0; }
#in-short h2 { border: 0; margin: .6rem 0 .2rem; padding: 0; }
#in-short p { max-width: none; }
.scroll { overflow-x: auto; max-height: 34rem; overflow-y: auto; }
.scroll:has(img) { max-height: none; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: .4rem; }
@media (prefers-color-scheme: dark) { img { filter: invert(.9) hue-rotate(180deg); } }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .6rem; text-align: right; vertical-align: top; min-width: 3.2rem;
  max-width: 24rem; overflow-wrap: break-word; }
th { border-bottom: 2px solid var(--line); font-weight: 600; vertical-align: bottom;
  white-space: normal; }
thead th { position: sticky; top: 0; z-index: 1; background: var(--page); }
thead th:first-child { z-index: 2; }
td { border-bottom: 1px solid var(--line); }
.words { text-align: left; min-width: 8.5rem; }
.number { white-space: nowrap; }
tr { background: var(--page); }
tbody tr:nth-child(even) { background: var(--band); }
th:first-child, td:first-child { position: sticky; left: 0; background: inherit; }
@media (max-width: 40rem) { table { font-size: .8rem; } th, td { padding: .3rem .5rem; }
  th:first-child, td:first-child { max-width: 8rem; }
  img { max-width: none; width: 38rem; } }
@media print { body { max-width: none; } .scroll { overflow: visible; max-height: none; }
  img { filter: none; } }
"""


def report_html(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return the file; every text in it is escaped."""
    labels = labels_of(sections)
    # What a reader wants first is above the contents.
    first = [section for section in sections if section.anchor == ABSTRACT]
    rest = [section for section in sections if section.anchor != ABSTRACT]
    links = [f'<li><a href="#{s.anchor}">{escape(s.title)}</a></li>' for s in rest]
    top, bodies = ([_section(section, labels) for section in part] for part in (first, rest))
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "img-src data:; style-src 'unsafe-inline'\">",
            f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            f'<h1>{escape(title)}</h1>\n<p class="soft">{escape(subtitle)}</p>',
            *top,
            '<nav aria-label="Contents"><ol>',
            *links,
            "</ol></nav>\n<main>",
            *bodies,
            "</main>\n</body>\n</html>\n",
        ]
    )


def _section(section: Section, labels: dict[str, str]) -> str:
    parts = [_html_part(part, labels) for part in section.parts]
    head = f'<section id="{section.anchor}">\n<h2>{escape(section.title)}</h2>'
    return "\n".join([head, *parts, "</section>"])


def _html_part(part: Part, labels: dict[str, str]) -> str:
    if isinstance(part, str):
        return f"<p>{escape(part)}</p>"
    caption = f"<figcaption><b>{labels[part.name]}.</b> {escape(part.caption)}</figcaption>"
    shown = _picture(part) if isinstance(part, Picture) else _table(part)
    return f'<figure>{caption}\n<div class="scroll" tabindex="0">{shown}</div></figure>'


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    # Two thirds of its pixels, so that it is sharp on fine screens too.
    width = int.from_bytes(picture.png[_PNG_WIDTH]) * 2 // 3
    alt = escape(picture.caption)
    return f'<img alt="{alt}" width="{width}" src="data:image/png;base64,{data}">'


def _table(table: Table) -> str:
    kinds = ["words" if index == 0 else _kind(cells) for index, cells in enumerate(_columns(table))]
    header = _cells("th scope=col", kinds, table.header)
    rows = "\n".join(f"<tr>{_cells('td', kinds, row)}</tr>" for row in table.rows)
    return f"<table><thead><tr>{header}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"


def _cells(tag: str, kinds: Sequence[str], texts: Sequence[str]) -> str:
    name = tag.split(" ")[0]
    return "".join(
        f'<{tag} class="{kind}">{escape(text)}</{name}>'
        for kind, text in zip(kinds, texts, strict=True)
    )


def _columns(table: Table) -> list[list[str]]:
    return [[row[index] for row in table.rows] for index in range(len(table.header))]


def _kind(cells: Sequence[str]) -> str:
    """Say how to set a column: numbers, or words."""
    told = [cell for cell in cells if cell != "-"]
    return "number" if all(map(_is_number, told)) else "words"


def _is_number(cell: str) -> bool:
    try:
        float(cell.split(" ")[0].lstrip("<").replace(",", "").rstrip("%"))
    except ValueError:
        return False
    return True


# -------------------------------------------------------------------------------------------------
# A report as Markdown, with its pictures and tables as files beside it.
# -------------------------------------------------------------------------------------------------


def report_markdown(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return the text; pictures are `<name>.png` in the same folder."""
    labels = labels_of(sections)
    lines = [f"# {_plain(title)}", "", _plain(subtitle), ""]
    for section in sections:
        lines += [f"## {_plain(section.title)}", ""]
        for part in section.parts:
            lines += [_markdown_part(part, labels), ""]
    return "\n".join(lines)


def _markdown_part(part: Part, labels: dict[str, str]) -> str:
    if isinstance(part, str):
        return _plain(part)
    caption = f"{labels[part.name]}. {_plain(part.caption)}"
    if isinstance(part, Picture):
        return f"{caption}\n\n![{labels[part.name]}]({part.name}.png)"
    header = [_cell(name) for name in part.header]
    table = markdown_table(header, [[_cell(cell) for cell in row] for row in part.rows])
    return f"{caption}\n\n{table}"


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Return a text on one line in which nothing is HTML."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")


# -------------------------------------------------------------------------------------------------
# A report of training runs and evaluations: its sections, and its files.
# -------------------------------------------------------------------------------------------------


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
