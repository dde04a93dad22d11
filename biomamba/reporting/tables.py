"""Result records as Markdown tables."""

import math
from collections.abc import Iterable, Mapping, Sequence

from biomamba.data.exposure import Exposure
from biomamba.evaluation.records import ResultRecord
from biomamba.metrics.interval import Interval

_PER_TOKEN = ("perplexity", "perplexity_change")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an aligned Markdown table; the first column is left-aligned, the others right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]

    def render(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join(
        ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    )
    return "\n".join([render(lines[0]), rule + "|", *(render(line) for line in lines[1:])])


def exposure_table(exposures: Mapping[str, Exposure]) -> str:
    """Return one line per source of a run: its size, packing and repetition."""
    header = ["source", "documents", "tokens", "dropped tokens", "cut documents", "padding"]
    header += ["rows drawn", "epochs"]
    rows = [
        [
            name,
            f"{found.num_documents:,}",
            f"{found.num_tokens:,}",
            f"{found.num_dropped_tokens:,}",
            f"{found.num_cut_documents:,}",
            f"{found.padding_ratio:.1%}",
            f"{found.num_rows_drawn:,}",
            f"{found.epochs:.2f}",
        ]
        for name, found in exposures.items()
    ]
    return markdown_table(header, rows)


def perplexity_table(records: Sequence[ResultRecord]) -> str:
    """Return one line per source: each model's figures side by side, then the paired change.

    A model with another tokenizer than the stores has no perplexity, and a change beside it is one
    of bits per byte; the tokens are those of the stores where a model read them.
    """
    records = [record for record in records if record.first_position is None]
    models = list(dict.fromkeys(record.model for record in records))
    found = {(r.source, r.model, r.metric): r for r in records}
    metrics = {record.metric for record in records}
    change = "perplexity_change" if "perplexity_change" in metrics else "bits_per_byte_change"
    label, style = ("perplexity", "+.1%") if change in _PER_TOKEN else ("bits/byte", "+.3f")
    header = ["source", "documents", "tokens"]
    header += [f"perplexity {model}" for model in models]
    header += [f"bits/byte {model}" for model in models]
    header += [f"{label} change"] if change in metrics else []
    rows = []
    for source in dict.fromkeys(record.source for record in records):
        mine = [record for record in records if record.source == source]
        first = next((record for record in mine if record.metric in _PER_TOKEN), mine[0])
        row = [source, f"{first.num_documents:,}", f"{first.num_tokens:,}"]
        row += [_cell(found.get((source, model, "perplexity")), ".2f") for model in models]
        row += [_cell(found.get((source, model, "bits_per_byte")), ".3f") for model in models]
        row += [_interval(record, style) for record in mine if record.metric == change]
        rows.append(row)
    return markdown_table(header, rows)


def positions_table(records: Sequence[ResultRecord]) -> str:
    """Return one line per source and bucket of positions: the perplexities side by side."""
    placed = [record for record in records if record.first_position is not None]
    models = list(dict.fromkeys(record.model for record in placed))
    found = {(r.source, r.first_position, r.model): r for r in placed}
    header = ["source", "positions", "documents", "tokens"]
    header += [f"perplexity {model}" for model in models]
    rows = []
    for source, begin in dict.fromkeys((r.source, r.first_position) for r in placed):
        first = found[source, begin, models[0]]
        row = [source, f"{begin:,} to {(first.end_position or 0) - 1:,}"]
        row += [f"{first.num_documents:,}", f"{first.num_tokens:,}"]
        row += [_interval(found[source, begin, model], ".2f") for model in models]
        rows.append(row)
    return markdown_table(header, rows)


def _cell(record: ResultRecord | None, style: str) -> str:
    return "n/a" if record is None else _interval(record, style)


def _interval(record: ResultRecord, style: str) -> str:
    return interval_cell(record.interval, style)


def interval_cell(found: Interval, style: str) -> str:
    """Return a figure with its bounds, or alone if it has none."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"{found.value:{style}}"
    return f"{found.value:{style}} [{found.low:{style}}, {found.high:{style}}]"
