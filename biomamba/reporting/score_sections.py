"""Held-out documents in a report: figures per domain, and what was forgotten."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from biomamba.evaluation.comparison import ALL, ComparisonSettings, Models, compare
from biomamba.evaluation.comparison_records import comparison_csv
from biomamba.evaluation.document_changes import document_changes
from biomamba.reporting.comparison_plots import changes_plot, intervals_plot
from biomamba.reporting.comparison_tables import comparison_cells, comparison_explanation
from biomamba.reporting.report_scores import ReportScores
from biomamba.reporting.section import Part, Picture, Section, Table, csv_of

NO_SCORES = (
    "No held-out documents were scored; an evaluation with sources (python -m biomamba.evaluate "
    "checkpoint=... baseline=...) fills this section."
)
NO_PAIR = "One model only: a second one, as the baseline of its evaluation, fills this section."


def perplexity_section(scores: ReportScores, settings: ComparisonSettings) -> Section:
    """Return perplexity and bits per byte of every model on every source."""
    title = "Perplexity and bits per byte"
    if not scores.models:
        return Section(title, [NO_SCORES])
    parts: list[Part] = []
    for number, panel in enumerate(scores.panels, start=1):
        found = compare(panel, _with_reference(settings, panel))
        if not found.records:
            continue
        name = "scores" if number == 1 else f"scores_{number}"
        header, rows = comparison_cells(found.records)
        parts.append(
            Table(
                name=name,
                caption=comparison_explanation(found.records),
                header=header,
                rows=rows,
                files=scores.files,
                values=comparison_csv(found.records),
            )
        )
        caption = "The figures of the table, and how they differ on the same documents."
        png = intervals_plot(found.records)
        parts.append(
            Picture(name=f"{name}_intervals", caption=caption, png=png, files=scores.files)
        )
        parts += [f"{note}." for note in found.notes]
    return Section(title, [*parts, *scores.notes])


def forgetting_section(
    scores: ReportScores, settings: ComparisonSettings, num_listed: int
) -> Section:
    """Return how single documents changed, the worst and the best by their keys."""
    title = "Forgetting ledger"
    if not scores.models:
        return Section(title, [NO_SCORES])
    parts: list[Part] = []
    for number, panel in enumerate(scores.panels, start=1):
        if len(panel) > 1:
            name = "changes" if number == 1 else f"changes_{number}"
            reference = _with_reference(settings, panel).reference or next(iter(panel))
            parts += _changes(name, panel, reference, scores.files, num_listed)
    return Section(title, parts or [NO_PAIR])


def _changes(
    name: str, models: Models, reference: str, files: Sequence[str], num_listed: int
) -> list[Part]:
    changes = document_changes(models, reference)
    first = next(iter(models.values()))[0].scored
    # A document is named by the hash of its id; no text is kept of it.
    keys = {source: [item.split(":")[0] for item in first[source].items] for source in changes}
    lines = [
        (source, model, _finite(keys[source], values))
        for source, found in changes.items()
        for model, values in found.items()
    ]
    ledger = Table(
        name=name,
        caption=f"Bits per byte of single documents minus those of {reference}: positive is worse. "
        "Quantiles are over documents; each document counts once, however long it is.",
        header=["source", "model", "documents", "got worse", "mean", "5 %", "median", "95 %"],
        rows=[[source, model, *_spread(found[1])] for source, model, found in lines],
        files=files,
        values=csv_of(
            ["source", "model", "document", "bits_per_byte_change"],
            [
                [s, m, k, repr(float(v))]
                for s, m, (names, v) in lines
                for k, v in zip(names, v, strict=True)
            ],
        ),
    )
    picture = Picture(
        name=f"{name}_distribution",
        caption="Share of documents that change by at most so much; left of the line is better.",
        png=changes_plot(changes, reference),
        files=files,
    )
    extremes = Table(
        name=f"{name}_extremes",
        caption=f"The {num_listed} documents of each source with the highest change (worst) and "
        "with the lowest one (best), by key.",
        header=["source", "model", "worst", "change", "best", "change of best"],
        rows=[row for s, m, found in lines for row in _extremes(s, m, *found, num_listed)],
        files=files,
    )
    return [ledger, picture, extremes]


def _finite(
    keys: Sequence[str], values: NDArray[np.float64]
) -> tuple[list[str], NDArray[np.float64]]:
    """Leave out documents without text."""
    is_known = np.isfinite(values)
    return [key for key, known in zip(keys, is_known, strict=True) if known], values[is_known]


def _spread(values: NDArray[np.float64]) -> list[str]:
    if not len(values):
        return ["0", *["-"] * 5]
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    numbers = [f"{number:+.3f}" for number in (values.mean(), low, middle, high)]
    return [f"{len(values):,}", f"{(values > 0).mean():.1%}", *numbers]


def _extremes(
    source: str, model: str, keys: Sequence[str], values: NDArray[np.float64], num_listed: int
) -> list[list[str]]:
    best = np.argsort(values, kind="stable")[:num_listed]
    worst = np.argsort(-values, kind="stable")[:num_listed]
    return [
        [source, model, keys[high], f"{values[high]:+.3f}", keys[low], f"{values[low]:+.3f}"]
        for high, low in zip(worst, best, strict=True)
    ]


def _with_reference(settings: ComparisonSettings, models: Models) -> ComparisonSettings:
    """Return the settings for models among which the wanted reference may be missing."""
    reference = settings.reference if settings.reference in models else None
    return ComparisonSettings(reference, [ALL], settings.power, settings.bootstrap)
