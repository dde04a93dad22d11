"""Ablations in a report: one table per family of recipes, each against its reference."""

from collections.abc import Sequence
from dataclasses import replace

from biomamba.evaluation.comparison import (
    ComparisonRecord,
    ComparisonSettings,
    Models,
    compare,
    comparison_csv,
)
from biomamba.reporting.groups import Families, Family, RunGroup, difference_of
from biomamba.reporting.plots import recipes_plot
from biomamba.reporting.scores import ReportScores, restricted, subjects_of
from biomamba.reporting.section import Part, Picture, Section, Table
from biomamba.reporting.tables import difference_cell, probability_cell, value_cell

_BITS = "bits_per_byte"
_SIGNIFICANT = 0.05
NONE = "-"


def ablation_section(
    families: Families, scores: ReportScores, settings: ComparisonSettings
) -> Section:
    """Return a table and a picture per family."""
    title = "Ablations"
    parts: list[Part] = []
    for number, family in enumerate(families.found, start=1):
        parts += _family(f"ablation_{number}", family, scores, settings)
    if not parts:
        parts.append(
            "This section needs runs of several recipes: experiments of ablation/ or scaling/ that "
            "share the first word of their names, or families=... of names (docs/reporting.md)."
        )
    return Section(title, [*parts, *families.notes])


def _family(
    name: str, family: Family, scores: ReportScores, settings: ComparisonSettings
) -> list[Part]:
    names = {id(group): scores.of_group(group) for group in family.groups}
    models = _restricted(scores, [found for found in names.values() if found is not None])
    reference = names[id(family.reference)]
    records: Sequence[ComparisonRecord] = []
    notes: Sequence[str] = []
    if models and reference in models:
        found = compare(models, replace(settings, reference=reference, metrics=[_BITS]))
        records, notes = found.records, [f"{note}." for note in found.notes]
    before = _before(family, scores, records, settings)
    subjects = list(dict.fromkeys(record.subject for record in records))
    rows = [_row(group, family, names[id(group)], records, subjects) for group in family.groups]
    rows = [*_before_rows(before, subjects), *rows]
    header = ["recipe", "what differs", "seeds"]
    for subject in subjects:
        header += [f"bits/byte {subject}", f"difference {subject}", "p (Holm)"]
    header += ["tokens", "hours"]
    files = [*scores.files, *(str(run.folder) for group in family.groups for run in group.runs)]
    table = Table(
        name=name,
        caption=_caption(family, settings, records),
        header=header,
        rows=rows,
        files=files,
        values=comparison_csv(records) if records else None,
    )
    if not records:
        why = "The reference was not evaluated" if models else "Nothing of it was evaluated"
        return [table, f"{family.name}: {why} on held-out documents: no figures to compare."]
    picture = Picture(
        name=f"{name}_plot",
        caption=f"{family.name}: means with their intervals, small dots the seeds. Filled: differs "
        f"from {family.reference.name} (dashed) by p (Holm) below {_SIGNIFICANT}.",
        png=recipes_plot([*before, *records], reference or ""),
        files=files,
    )
    return [table, picture, _finding(family, records), *notes]


def _restricted(scores: ReportScores, names: Sequence[str]) -> Models:
    """Return these models on the sources that all of them were scored on in the same way."""
    known = {subject for panel in scores.panels for subject in subjects_of(panel)}
    shared = [
        subject
        for subject in subjects_of(scores.models)
        if subject in known
        and all(subject in seed.scored for name in names for seed in scores.models[name])
    ]
    return restricted(scores.models, names, shared) if names and shared else {}


def _before(
    family: Family,
    scores: ReportScores,
    records: Sequence[ComparisonRecord],
    settings: ComparisonSettings,
) -> list[ComparisonRecord]:
    """Return the figures of the model that the runs started with, if it is one."""
    names = [name for group in family.groups if (name := scores.of_group(group)) is not None]
    found = {scores.origins.get(name) for name in names}
    (name,) = found if len(found) == 1 else (None,)
    if name is None or not records:
        return []
    subjects = {record.subject for record in records}
    here = [s for s in scores.models[name][0].scored if s in subjects]
    if not here:
        return []
    alone = restricted(scores.models, [name], here)
    return list(compare(alone, replace(settings, reference=name, metrics=[_BITS])).records)


def _before_rows(before: Sequence[ComparisonRecord], subjects: Sequence[str]) -> list[list[str]]:
    if not before:
        return []
    row = [before[0].model, "where all of them started", NONE]
    for subject in subjects:
        found = next((record for record in before if record.subject == subject), None)
        row += [value_cell(found) if found else NONE, NONE, NONE]
    return [[*row, NONE, NONE]]


def _row(
    group: RunGroup,
    family: Family,
    model: str | None,
    records: Sequence[ComparisonRecord],
    subjects: Sequence[str],
) -> list[str]:
    is_reference = group is family.reference
    what = "the reference" if is_reference else difference_of(group, family.reference)
    scored = next((len(r.seed_values) for r in records if r.model == model), 0)
    seeds = f"{len(group.runs)}" if scored == len(group.runs) else f"{scored} of {len(group.runs)}"
    row = [group.name, what, seeds]
    for subject in subjects:
        found = next((r for r in records if (r.subject, r.model) == (subject, model)), None)
        row += [NONE] * 3 if found is None else _cells(found)
    tokens, hours = group.num_tokens, group.hours
    return [
        *row,
        NONE if tokens is None else f"{tokens:,.0f}",
        NONE if hours is None else f"{hours:.2f}",
    ]


def _cells(record: ComparisonRecord) -> list[str]:
    return [value_cell(record), difference_cell(record), probability_cell(record.p_holm)]


def _caption(
    family: Family, settings: ComparisonSettings, records: Sequence[ComparisonRecord]
) -> str:
    num_tests = sum(record.p_value is not None for record in records)
    return (
        f"{family.name}: held-out bits per byte, lower is better, with "
        f"{settings.bootstrap.level:.0%} intervals over documents and, of several seeds, over "
        f"seeds; differences are to {family.reference.name} on the same documents, p is corrected "
        f"for the {num_tests} tests of this table. Tokens are those that a run has trained on "
        "(padding is none); tokens and hours are means over seeds."
    )


def _finding(family: Family, records: Sequence[ComparisonRecord]) -> str:
    """Say which differences are significant."""
    tested = [record for record in records if record.p_holm is not None]
    clear = [record for record in tested if (record.p_holm or 0.0) < _SIGNIFICANT]
    told = [f"{r.model} {r.difference:+.3f} on {r.subject}" for r in clear]
    single = all(len(record.seed_values) == 1 for record in records)
    of_checkpoints = " One seed each: said of these checkpoints only." if single else ""
    if not told:
        return (
            f"{family.name}: none of {len(tested)} differences to {family.reference.name} is "
            f"significant; the intervals say how large they may be.{of_checkpoints}"
        )
    return (
        f"{family.name}: {len(told)} of {len(tested)} differences to {family.reference.name} in "
        f"bits per byte are significant: {'; '.join(told)}.{of_checkpoints}"
    )
