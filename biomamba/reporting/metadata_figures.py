"""Figures of groups of documents: bits per byte, perplexity, and how they change."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from biomamba.evaluation.comparison import Models, aligned
from biomamba.evaluation.scored import Scored
from biomamba.metrics.grouped import interval_of
from biomamba.metrics.interval import Bootstrap, Interval
from biomamba.metrics.measure import Measure
from biomamba.metrics.multiplicity import holm
from biomamba.metrics.paired import Difference, paired_difference
from biomamba.reporting.metadata_groups import Groups

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
