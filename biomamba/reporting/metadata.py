"""Held-out documents by year of publication and by MeSH subject: figures, plots, tables."""

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biomamba.data.document import DocumentFacts, MeshTerm
from biomamba.evaluation.comparison import ComparisonSettings, Models, aligned
from biomamba.evaluation.document_scores import DOCUMENT_FACTS, read_document_facts
from biomamba.evaluation.stored_run import Scored
from biomamba.metrics.measure import Bootstrap, Interval, Measure, interval_of
from biomamba.metrics.significance import Difference, holm, paired_difference
from biomamba.reporting.inputs import Evaluation, TrainingRun
from biomamba.reporting.scores import ReportScores
from biomamba.reporting.section import Part, Picture, Section, Table, csv_of
from biomamba.reporting.tables import interval_cell
from biomamba.runtime.errors import ConfigError, DataError

# -------------------------------------------------------------------------------------------------
# Documents by year of publication, and by MeSH branch or descriptor.
# -------------------------------------------------------------------------------------------------

Known = Sequence[DocumentFacts | None]  # of the documents of a source, in their order
Groups = Mapping[str, Sequence[int]]  # places of documents by the name of their group
_TREE_NUMBER = re.compile(r"[A-Z]\d\d(?:\.\d+)*")


@dataclass(frozen=True)
class MeshTree:
    """The places of descriptors in the MeSH trees.

    Attributes:
        numbers: Tree numbers by the name of a descriptor, in lower case; most have several.
        names: Name of a descriptor by tree number.
    """

    numbers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "MeshTree":
        """Read NLM's file of lines `Neoplasms;C04` (mtrees2026.bin).

        Raises:
            ConfigError: There is no such file.
            DataError: A line is none of these.
        """
        if not path.is_file():
            raise ConfigError(
                f"report.metadata.mesh_tree names {path}, which is no file; it is the file of MeSH "
                "trees, mtrees<year>.bin at https://nlmpubs.nlm.nih.gov/projects/mesh/"
            )
        numbers: dict[str, list[str]] = {}
        names = {}
        # Some years' files are not UTF-8; a name with a wrong letter is only not found.
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for count, line in enumerate(lines, start=1):
            name, _, number = line.strip().rpartition(";")
            if not line.strip():
                continue
            if not name or not _TREE_NUMBER.fullmatch(number):
                raise DataError(
                    f"{path}, line {count}: expected `name;tree number` as in `Neoplasms;C04`, "
                    f"found {line[:60]!r}"
                )
            numbers.setdefault(name.lower(), []).append(number)
            names[number] = name
        if not names:
            raise DataError(f"{path} holds no line `name;tree number`; fetch it again")
        return cls(numbers, names)

    def branches(self, term: MeshTerm, depth: int) -> set[str]:
        """Return the branches of a descriptor: `C04 Neoplasms`, at depth 2 `C04.588 ...`."""
        numbers = (
            ".".join(number.split(".")[:depth])
            for number in self.numbers.get(term.name.lower(), ())
        )
        return {f"{number} {self.names.get(number, '')}".strip() for number in numbers}


def by_year(known: Known) -> Groups:
    """Return documents by their year, in the order of the years."""
    groups: dict[str, list[int]] = {}
    for place, facts in enumerate(known):
        if facts is not None and facts.year is not None:
            groups.setdefault(str(facts.year), []).append(place)
    return {year: groups[year] for year in sorted(groups, key=int)}


def by_subject(known: Known, tree: MeshTree | None, depth: int) -> Groups:
    """Return documents by branch, or without trees by descriptor, the largest group first.

    A document counts once in each branch that one of its descriptors is in.
    """
    groups: dict[str, list[int]] = {}
    for place, facts in enumerate(known):
        for name in _subjects(() if facts is None else facts.mesh, tree, depth):
            groups.setdefault(name, []).append(place)
    return {name: groups[name] for name in sorted(groups, key=lambda n: (-len(groups[n]), n))}


def large_groups(groups: Groups, min_documents: int) -> Groups:
    """Return the groups of at least so many documents."""
    return {name: places for name, places in groups.items() if len(places) >= min_documents}


def unknown_descriptors(known: Known, tree: MeshTree) -> tuple[int, int]:
    """Return how many descriptors of the documents the trees do not have, and of how many."""
    terms = Counter(term.name.lower() for facts in known if facts for term in facts.mesh)
    return sum(name not in tree.numbers for name in terms), len(terms)


def _subjects(mesh: Sequence[MeshTerm], tree: MeshTree | None, depth: int) -> Iterable[str]:
    if tree is None:
        return sorted({term.name for term in mesh})
    return sorted({branch for term in mesh for branch in tree.branches(term, depth)})


# -------------------------------------------------------------------------------------------------
# Figures of groups of documents: bits per byte, perplexity, and how they change.
# -------------------------------------------------------------------------------------------------

BITS, PERPLEXITY = "bits_per_byte", "perplexity"


@dataclass(frozen=True)
class ScoredSource:
    """The documents of a source with the figures of every model.

    Attributes:
        source: Its name.
        keys: Of the documents, in the order of the columns of the figures.
        measures: By model and name. Of several seeds columns are means: bits per byte is that of
            the mean, perplexity the geometric mean.
    """

    source: str
    keys: Sequence[str]
    measures: Mapping[str, Mapping[str, Measure]]

    @classmethod
    def of(cls, models: Models, source: str) -> "ScoredSource":
        """Put the scores of all models on a source together; perplexity for one tokenizer only."""
        found = aligned(source, models)
        every = [scored for seeds in found.values() for scored in seeds]
        names = [BITS, PERPLEXITY] if len({each.tokenizer for each in every}) == 1 else [BITS]
        measures = {
            model: {name: _mean(seeds, name) for name in names} for model, seeds in found.items()
        }
        return cls(source, every[0].units, measures)


@dataclass(frozen=True, kw_only=True)
class GroupFigure:
    """The figures of one model on one group of documents of a source.

    Attributes:
        change: Bits per byte minus those of the reference on the same documents; None for it.
        p_holm: Of the change, corrected for all changes of the table.
    """

    source: str
    group: str
    model: str
    num_documents: int
    bits: Interval
    perplexity: Interval | None
    change: Difference | None
    p_holm: float | None = None


def group_figures(
    scored: ScoredSource, groups: Groups, reference: str, bootstrap: Bootstrap
) -> Iterator[GroupFigure]:
    """Yield the figures of every group and model; intervals are drawn over documents."""
    for group, places in groups.items():
        chosen = np.array(places)
        units = [scored.keys[place] for place in places]
        parts = {
            model: {name: _part(found, chosen) for name, found in measures.items()}
            for model, measures in scored.measures.items()
        }
        for model, measures in parts.items():
            change = None
            if model != reference:
                base = parts[reference][BITS]
                change = paired_difference(measures[BITS], base, units, bootstrap)
            perplexity = None
            if PERPLEXITY in measures:
                perplexity, _ = interval_of(measures[PERPLEXITY], units, bootstrap)
            yield GroupFigure(
                source=scored.source,
                group=group,
                model=model,
                num_documents=len(places),
                bits=interval_of(measures[BITS], units, bootstrap)[0],
                perplexity=perplexity,
                change=change,
            )


def with_holm(figures: Sequence[GroupFigure]) -> list[GroupFigure]:
    """Return the figures with p values corrected for all of their changes."""
    tested = [figure for figure in figures if figure.change is not None]
    corrected = iter(holm([f.change.p_value for f in tested if f.change is not None]))
    return [f if f.change is None else replace(f, p_holm=next(corrected)) for f in figures]


def _mean(seeds: Sequence[Scored], name: str) -> Measure:
    found = [scored.measure(name) for scored in seeds]
    return replace(found[0], columns=np.mean([each.columns for each in found], axis=0))


def _part(measure: Measure, places: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Measure:
    return replace(measure, columns=measure.columns[places])


# -------------------------------------------------------------------------------------------------
# Figures by year and by subject as pictures.
# -------------------------------------------------------------------------------------------------

# Colors that the color-blind tell apart (Okabe and Ito).
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SIGNIFICANT = 0.05


def years_plot(figures: Sequence[GroupFigure], newest: Mapping[str, int]) -> bytes:
    """Draw bits per byte by year with bands, and below how they change, as a PNG.

    A column of panels per source. After the newest year of a training run (by its name) a dashed
    line is: no document of that run is younger.
    """
    sources = list(dict.fromkeys(figure.source for figure in figures))
    rows = 2 if any(figure.change is not None for figure in figures) else 1
    # Not pyplot: it would look for a screen.
    figure = Figure(figsize=(max(6.0, 4.6 * len(sources)), 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, len(sources), squeeze=False, sharex="col")
    for column, source in enumerate(sources):
        mine = [found for found in figures if found.source == source]
        _year_lines(panels[0][column], mine, is_change=False)
        panels[0][column].set(title=source)
        if rows == 2:
            _year_lines(panels[1][column], mine, is_change=True)
            panels[1][column].axhline(0, color=_COLOURS[0], linewidth=1)
        panels[-1][column].set_xlabel("year of publication")
        panels[-1][column].xaxis.get_major_locator().set_params(integer=True)
        for row in range(rows):
            _mark_newest(panels[row][column], newest, is_named=row == 0)
    panels[0][0].set_ylabel("bits per byte")
    if rows == 2:
        panels[1][0].set_ylabel("change of bits per byte")
    panels[0][0].legend(fontsize="small", frameon=False)
    return _png(figure)


def subjects_plot(figures: Sequence[GroupFigure]) -> bytes:
    """Draw the changes of one source, a line per subject and a column per model, as a PNG.

    The number of a cell is its change; a star follows where it is significant after correction.
    """
    changed = [found for found in figures if found.change is not None]
    models = list(dict.fromkeys(found.model for found in changed))
    cells = {(found.group, found.model): found for found in changed}
    groups = list(dict.fromkeys(found.group for found in changed))
    groups.sort(key=lambda group: _change(cells[group, models[0]]))
    values = np.array([[_change(cells[group, model]) for model in models] for group in groups])
    size = (4.5 + 1.3 * len(models), 1.3 + 0.24 * len(groups))
    figure = Figure(figsize=size, layout="constrained")
    panel = figure.subplots()
    limit = float(np.abs(values).max()) or 1.0
    image = panel.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    labels = [f"{group} ({cells[group, models[0]].num_documents:,})" for group in groups]
    panel.set_yticks(range(len(groups)), labels, fontsize="small")
    panel.set_xticks(range(len(models)), models, fontsize="small")
    for row, group in enumerate(groups):
        for column, model in enumerate(models):
            value, holm = values[row, column], cells[group, model].p_holm
            star = "*" if holm is not None and holm < _SIGNIFICANT else ""
            shade = "white" if abs(value) > 0.6 * limit else "black"
            style = {"color": shade, "fontsize": "x-small"}
            place = {"horizontalalignment": "center", "verticalalignment": "center"}
            panel.text(column, row, f"{value:+.3f}{star}", fontdict=style | place)
    figure.colorbar(image, ax=panel, label="change of bits per byte")
    return _png(figure)


def _year_lines(panel: Axes, figures: Sequence[GroupFigure], *, is_change: bool) -> None:
    for number, model in enumerate(dict.fromkeys(found.model for found in figures)):
        line = [
            (int(f.group), f.change if is_change else f.bits) for f in figures if f.model == model
        ]
        known = [(year, found) for year, found in line if found is not None]
        if not known:
            continue
        years = [year for year, _ in known]
        colour = _COLOURS[number % len(_COLOURS)]
        values = [found.value for _, found in known]
        panel.plot(years, values, marker="o", markersize=3, color=colour, label=model)
        low, high = [found.low for _, found in known], [found.high for _, found in known]
        panel.fill_between(years, low, high, color=colour, alpha=0.2, linewidth=0)
    panel.grid(alpha=0.3)


def _mark_newest(panel: Axes, newest: Mapping[str, int], *, is_named: bool) -> None:
    for year in sorted(set(newest.values())):
        panel.axvline(year + 0.5, color="0.4", linestyle="--", linewidth=1)
        if is_named:
            names = ", ".join(name for name, found in newest.items() if found == year)
            panel.annotate(
                f"newest of {names}",
                (year + 0.5, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-3, -3),
                textcoords="offset points",
                fontsize="x-small",
                rotation=90,
                ha="right",
                va="top",
            )


def _change(figure: GroupFigure) -> float:
    assert figure.change is not None
    return figure.change.value


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


# -------------------------------------------------------------------------------------------------
# Figures of groups of documents as a table.
# -------------------------------------------------------------------------------------------------

_NONE = "-"
_FIGURES = ("bits_per_byte", "perplexity", "change")


def figures_table(
    name: str, caption: str, group: str, figures: Sequence[GroupFigure], files: Sequence[str]
) -> Table:
    """Return one line per group and model; columns that say nothing are left out.

    The CSV file has all columns and digits.
    """
    header = ["source", group, "documents", "model", "bits per byte", "perplexity"]
    header += ["change", "p", "p (Holm)"]
    lines = [_cells(figure) for figure in figures]
    used = [i for i in range(len(header)) if any(line[i] != _NONE for line in lines)]
    return Table(
        name=name,
        caption=caption,
        header=[header[i] for i in used],
        rows=[[line[i] for i in used] for line in lines],
        files=files,
        values=_values(group, figures),
    )


def _cells(figure: GroupFigure) -> list[str]:
    change = figure.change
    bounds = None if change is None else Interval(change.value, change.low, change.high)
    return [
        figure.source,
        figure.group,
        f"{figure.num_documents:,}",
        figure.model,
        _interval(figure.bits, ".3f"),
        _interval(figure.perplexity, ".2f"),
        _interval(bounds, "+.3f"),
        _NONE if change is None or figure.p_holm is None else _probability(change.p_value),
        _NONE if figure.p_holm is None else _probability(figure.p_holm),
    ]


def _interval(found: Interval | None, style: str) -> str:
    if found is None:
        return _NONE
    return interval_cell(found, style)


def _probability(value: float) -> str:
    if math.isnan(value):
        return _NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _values(group: str, figures: Sequence[GroupFigure]) -> str:
    header = ["source", group, "documents", "model"]
    header += [f"{figure}{end}" for figure in _FIGURES for end in ("", "_low", "_high")]
    rows = []
    for figure in figures:
        numbers = [
            number
            for found in (figure.bits, figure.perplexity, figure.change)
            for number in ((found.value, found.low, found.high) if found else (None,) * 3)
        ]
        numbers += [figure.change.p_value if figure.change else None, figure.p_holm]
        cells = [
            "" if number is None or math.isnan(number) else repr(float(number))
            for number in numbers
        ]
        rows.append([figure.source, figure.group, figure.num_documents, figure.model, *cells])
    return csv_of([*header, "p", "p_holm"], rows)


# -------------------------------------------------------------------------------------------------
# Held-out documents by year of publication and by subject, from what their records say.
#
# Facts come from the files that an evaluation keeps beside its scores: no store is read, no text.
# -------------------------------------------------------------------------------------------------

TITLE = "By year and subject"
NO_FACTS = (
    "No evaluation knows year or subjects of its documents: stores of corpora with this metadata "
    "(medline, or a year_column), prepared and evaluated, fill this section."
)


@dataclass(frozen=True)
class MetadataSettings:
    """How documents are grouped.

    Groups of fewer than min_documents documents are counted only, as are those after the
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
        mark = "A dashed line is behind the newest year of a training run. " if newest else ""
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
