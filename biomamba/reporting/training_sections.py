"""Report sections on training runs: settings, learning curves, provenance."""

import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from biomamba.reporting.groups import Families, RunGroup, mean_of
from biomamba.reporting.inputs import (
    RESULTS,
    RUN_RECORD,
    TASK_RESULTS,
    Evaluation,
    ReportInputs,
    TrainingRun,
)
from biomamba.reporting.plots import loss_plot, validation_plot, validation_sources
from biomamba.reporting.section import Part, Picture, Section, Table, labels_of

# -------------------------------------------------------------------------------------------------
# Training runs in a report: what they were, and their learning curves.
# -------------------------------------------------------------------------------------------------

NONE = "-"
_MAX_COLUMNS = 4  # recipes that have a column each
_NO_RUN = "No training run was given; a folder of biomamba.train in runs fills this section."
_READING = (
    "Hours are from the first to the last point of the curves of each start, without waiting; "
    "shares are of the tokens that were trained on; figures of several seeds are means."
)
_SAME_SOURCES = "runs on the same sources share a panel: losses on other texts do not compare."
_DOTS = (
    "Hollow dot: before the run; filled dot: after it. A run that started from the weights of "
    "another one starts again at 0."
)


def summary_section(groups: Sequence[RunGroup]) -> Section:
    """Return what every recipe was; of many, what they share and what tells them apart."""
    title = "Training runs"
    if not groups:
        return Section(title, [_NO_RUN])
    facts = {group.name: _summary(group) for group in groups}
    names = [name for name in _names(facts) if any(told[name] != NONE for told in facts.values())]
    files = [str(run.folder / RUN_RECORD) for group in groups for run in group.runs]
    if len(groups) <= _MAX_COLUMNS:
        table = Table(
            name="runs",
            caption=f"The runs. {_READING}",
            header=["", *facts],
            rows=[[name, *(told[name] for told in facts.values())] for name in names],
            files=files,
        )
        return Section(title, [table])
    shared = [name for name in names if len({told[name] for told in facts.values()}) == 1]
    differs = [name for name in names if name not in shared]
    first = next(iter(facts.values()))
    parts = [
        Table(
            name="runs",
            caption=f"How the {len(groups)} recipes of {len(files)} runs differ. {_READING}",
            header=["recipe", *differs],
            rows=[[name, *(told[each] for each in differs)] for name, told in facts.items()],
            files=files,
        ),
        Table(
            name="runs_alike",
            caption="What all of these runs share.",
            header=["", "all runs"],
            rows=[[name, first[name]] for name in shared],
            files=files,
        ),
    ]
    return Section(title, [part for part in parts if part.rows])


def curves_section(groups: Sequence[RunGroup], families: Families | None = None) -> Section:
    """Return training loss and validation nll of all recipes, family by family."""
    title = "Learning curves"
    if not groups:
        return Section(title, [_NO_RUN])
    parts: list[Part] = []
    for number, (name, members) in enumerate(_together(groups, families), start=1):
        ending, head = ("" if number == 1 else f"_{number}"), (f"{name}: " if name else "")
        files = [str(run.folder) for group in members for run in group.runs]
        several = any(len(group.runs) > 1 for group in members)
        band = " Line and band: mean, lowest and highest seed." if several else ""
        if any("train/loss" in run.curves for group in members for run in group.runs):
            caption = f"{head}training loss, as logged; {_SAME_SOURCES}{band}"
            caption = caption[0].upper() + caption[1:]
            png = loss_plot(members)
            parts.append(
                Picture(name=f"loss_curves{ending}", caption=caption, png=png, files=files)
            )
        if validation_sources(members):
            caption = f"{head}validation nll of each source. {_DOTS}{band}"
            caption = caption[0].upper() + caption[1:]
            png = validation_plot(members)
            parts.append(
                Picture(name=f"validation_curves{ending}", caption=caption, png=png, files=files)
            )
    if table := _validation_table(groups):
        parts.append(table)
    missing = [run.name for group in groups for run in group.runs if not run.curves]
    if missing:
        parts.append(f"No TensorBoard events are in {', '.join(missing)}: no curves of them.")
    return Section(title, parts)


def _names(facts: Mapping[str, Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for told in facts.values() for name in told))


def _together(
    groups: Sequence[RunGroup], families: Families | None
) -> list[tuple[str, Sequence[RunGroup]]]:
    """Return the recipes that share a picture, with a name for it."""
    found = families.found if families else ()
    known = {id(group) for family in found for group in family.groups}
    rest = [group for group in groups if id(group) not in known]
    sets: list[tuple[str, Sequence[RunGroup]]] = [(f.name, f.groups) for f in found]
    return [*sets, *([("other runs" if sets else "", rest)] if rest else [])]


def _validation_table(groups: Sequence[RunGroup]) -> Table | None:
    rows = []
    for group in groups:
        told = [run.validation("nll") for run in group.runs]
        for source in dict.fromkeys(name for each in told for name in each):
            pairs = [each[source] for each in told if source in each]
            before, after = ([p[i] for p in pairs if p[i] is not None] for i in (0, 1))
            both = [b - a for a, b in pairs if a is not None and b is not None]
            rows.append([group.name, source, _over(before), _over(after), _over(both, "+.3f")])
    if not rows:
        return None
    return Table(
        name="validation",
        caption="Validation nll (nats per token) before and after each run; run.json. Of several "
        "seeds the mean, with the sample standard deviation.",
        header=["run", "source", "before", "after", "change"],
        rows=rows,
        files=[str(run.folder / RUN_RECORD) for group in groups for run in group.runs],
    )


def _over(values: Sequence[float | None], style: str = ".3f") -> str:
    """Return a figure over seeds: the mean, and the deviation of several that differ."""
    known = [value for value in values if value is not None]
    if not known:
        return NONE
    mean = f"{statistics.fmean(known):{style}}"
    if len(set(known)) == 1:
        return mean
    return f"{mean} (sd {statistics.stdev(known):.3f})"


def _summary(group: RunGroup) -> dict[str, str]:
    every = [_facts(run) for run in group.runs]
    told = {name: ", ".join(dict.fromkeys(each[name] for each in every)) for name in every[0]}
    if len(group.runs) == 1:
        return told
    realised = _mean_realised([run.record.get("realised", {}) for run in group.runs])
    speed = mean_of([run.actual.tokens_per_second for run in group.runs])
    told |= _exposure(realised)
    told |= {"tokens": _count(group.num_tokens), "hours": _figure(group.hours, ".2f")}
    return told | {"tokens per second": _count(speed)}


def _mean_realised(every: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    sources = dict.fromkeys(name for realised in every for name in realised)
    return {
        name: {
            key: mean_of([realised.get(name, {}).get(key) for realised in every])
            for key in ("share", "epochs")
        }
        for name in sources
    }


def _exposure(realised: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    shares = {name: found.get("share") for name, found in realised.items()}
    return {"shares realised": _shares(shares), "epochs": _listed(realised, "epochs", ".2f")}


def _facts(run: TrainingRun) -> dict[str, str]:
    record, actual = run.record, run.actual
    provenance = record["provenance"]
    starts = record.get("starts", [])
    ends = ", ".join(dict.fromkeys(str(start.get("end") or "not known") for start in starts))
    trained = record.get("parameters", {}).get("trained")
    return {
        "model": _model(run.settings),
        "started with": _began_with(run.settings),
        "parameters": _count(actual.total_parameters),
        "trained": NONE if trained == actual.total_parameters else _count(trained),
        "sources": ", ".join(record.get("sources", {})) or NONE,
        "shares wanted": _shares(_weights(run.settings)),
        **_exposure(record.get("realised", {})),
        "tokens": _count(run.num_tokens),
        "steps": _count(actual.steps),
        "hours": _figure(actual.hours, ".2f"),
        "tokens per second": _count(actual.tokens_per_second),
        "hardware": hardware(provenance.get("machine", {}), actual.world_size),
        "precision": str(_inside(run.settings, "trainer", "precision") or NONE),
        "seed": str(run.settings.get("seed", NONE)),
        "commit": commit(provenance),
        "selection": _selection(record.get("selection", {})),
        "starts": f"{len(starts)} ({ends})" if starts else NONE,
    }


def hardware(machine: Mapping[str, Any], world_size: int | None) -> str:
    """Return the processors of a machine and the ranks of a run in words."""
    gpus = [str(gpu.get("name", gpu) if isinstance(gpu, dict) else gpu) for gpu in _gpus(machine)]
    kinds = [f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)]
    if not kinds and machine.get("cpu"):
        kinds = [f"{machine['cpu']}, {machine.get('num_cores', '?')} cores"]
    ranks = [f"{world_size} ranks" if world_size != 1 else "1 rank"] if world_size else []
    return ", ".join([*kinds, *ranks]) or NONE


def commit(provenance: Mapping[str, Any]) -> str:
    """Return the commit of a provenance, short, and whether files were changed."""
    git = provenance.get("git") or {}
    found = str(git.get("commit") or "")[:10]
    return f"{found} with changes" if found and git.get("is_dirty") else found or NONE


def _gpus(machine: Mapping[str, Any]) -> Sequence[Any]:
    found = machine.get("gpus") or []
    return found if isinstance(found, list) else [found]


def _model(settings: Mapping[str, Any]) -> str:
    config = _inside(settings, "model", "config")
    if not isinstance(config, dict):
        return NONE
    kind = str(config.get("_target_", "")).rpartition(".")[2].removesuffix("Config")
    return f"{kind}, {config.get('n_layer', '?')} layers of {config.get('d_model', '?')}"


def _began_with(settings: Mapping[str, Any]) -> str:
    model = settings.get("model")
    if not isinstance(model, dict):
        return NONE
    return str(model.get("checkpoint") or "random weights")


def _weights(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    weights = _inside(settings, "data", "mixture", "weights")
    return weights if isinstance(weights, dict) else {}


def _inside(settings: Any, *keys: str) -> Any:
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _selection(selection: Mapping[str, Any]) -> str:
    if "step" not in selection:
        return NONE
    figure = _figure(selection.get("figure"))
    return f"step {selection['step']} by {selection.get('monitor', '?')} = {figure}"


def _shares(shares: Mapping[str, Any]) -> str:
    told = [f"{n} {s:.1%}" for n, s in shares.items() if isinstance(s, int | float)]
    return ", ".join(told) or NONE


def _listed(found: Mapping[str, Mapping[str, Any]], key: str, style: str) -> str:
    told = {name: each.get(key) for name, each in found.items()}
    return ", ".join(f"{name} {_figure(value, style)}" for name, value in told.items()) or NONE


def _count(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) and math.isfinite(value) else NONE


def _figure(value: object, style: str = ".3f") -> str:
    return f"{value:{style}}" if isinstance(value, int | float) else NONE


# -------------------------------------------------------------------------------------------------
# Where every figure of a report comes from.
# -------------------------------------------------------------------------------------------------

_SHORT = 16  # digits of a hash as shown; the CSV file has all


def origin_section(
    inputs: ReportInputs, sections: Sequence[Section], own: Mapping[str, Any]
) -> Section:
    """Return commits, hashes and commands of what the sections were made from."""
    origins = _origins(inputs)
    rows = [[name, file, *_fingerprints(origin)] for name, file, origin in origins]
    header = ["", "file", "commit", "config sha256", "data fingerprint"]
    made = Table(
        name="origins",
        caption="What the figures were read from. The CSV file has the hashes in full length.",
        header=header,
        rows=[[*row[:3], *(cell[:_SHORT] for cell in row[3:])] for row in rows],
        values=Table(name="", caption="", header=header, rows=rows).csv(),
    )
    commands = Table(
        name="commands",
        caption="The commands. biomamba.report made this report.",
        header=["", "command"],
        rows=[*_commands(origins), ["report", _command("report", own)]],
    )
    parts = [made, *_checkpoints(inputs.evaluations), commands, _figures(sections)]
    return Section("Where the figures come from", [*parts, f"Report made by commit {commit(own)}."])


def _origins(inputs: ReportInputs) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return name, file and provenance of each run, of its starts again, and evaluation."""
    found: list[tuple[str, str, Mapping[str, Any]]] = []
    for run in inputs.runs:
        origin = dict(run.record["provenance"])
        origin["data_fingerprint"] = run.record.get("data_fingerprint")
        resumes = [each for each in origin.get("resumes") or [] if isinstance(each, dict)]
        file = str(run.folder / RUN_RECORD)
        found.append((f"train {run.name}", file, origin))
        for each in resumes:
            told = {"data_fingerprint": origin["data_fingerprint"], **each}
            found.append((f"train {run.name}, from step {each.get('step')}", file, told))
    for evaluation in inputs.evaluations:
        name = f"evaluate {evaluation.name}"
        sources = {record.source: record.provenance for record in evaluation.records}
        file = str(evaluation.folder / RESULTS)
        found += [(f"{name}: {source}", file, origin) for source, origin in sources.items()]
        tasks = {
            record.task: {**record.provenance, "data_fingerprint": record.data_fingerprint}
            for record in evaluation.tasks
        }
        file = str(evaluation.folder / TASK_RESULTS)
        found += [(f"{name}: {task}", file, origin) for task, origin in tasks.items()]
    for measured in inputs.measured:
        # A series that was stopped has an origin for each start.
        starts = {str(record.provenance): record.provenance for record in measured.records}
        found += [
            (f"efficiency {measured.name}", measured.file, origin) for origin in starts.values()
        ]
    return found


def _fingerprints(origin: Mapping[str, Any]) -> list[str]:
    told = [str(origin.get(key) or NONE) for key in ("config_sha256", "data_fingerprint")]
    return [commit(origin), *told]


def _commands(origins: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[list[str]]:
    # All sources and tasks of an evaluation have one command.
    found = {
        (name.split(":")[0], _command(name.partition(" ")[0], origin)): None
        for name, _, origin in origins
    }
    return [list(row) for row in found]


def _command(program: str, origin: Mapping[str, Any]) -> str:
    arguments = [str(argument) for argument in origin.get("argv") or []]
    return f"python -m biomamba.{program} {shlex.join(arguments)}".strip()


def _checkpoints(evaluations: Sequence[Evaluation]) -> list[Table]:
    rows: dict[tuple[str, ...], None] = {}
    for evaluation in evaluations:
        told = [record.provenance for record in evaluation.records]
        told += [record.provenance for record in evaluation.tasks]
        for origin in told:
            for label, found in dict(origin.get("checkpoints") or {}).items():
                path, sha256 = str(found.get("path", NONE)), str(found.get("sha256", NONE))
                rows[evaluation.name, label, path, sha256] = None
    if not rows:
        return []
    header = ["evaluation", "model", "checkpoint", "sha256"]
    full = [list(row) for row in rows]
    return [
        Table(
            name="checkpoints",
            caption="The weights that were evaluated.",
            header=header,
            rows=[[*row[:3], row[3][:_SHORT]] for row in full],
            values=Table(name="", caption="", header=header, rows=full).csv(),
        )
    ]


def _figures(sections: Sequence[Section]) -> Table:
    labels = labels_of(sections)
    parts = [p for s in sections for p in s.parts if isinstance(p, Table | Picture)]
    return Table(
        name="figures",
        caption="What each table and figure was made from.",
        header=["", "name", "files"],
        rows=[[labels[p.name], p.name, ", ".join(dict.fromkeys(p.files)) or NONE] for p in parts],
    )
