"""Training runs in a report: what they were, and their learning curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from biomamba.reporting.curve_plots import loss_plot, validation_plot, validation_sources
from biomamba.reporting.report_folders import RUN_RECORD
from biomamba.reporting.section import Part, Picture, Section, Table
from biomamba.reporting.training_run import TrainingRun

NONE = "-"
_NO_RUN = "No training run was given; a folder of biomamba.train in runs fills this section."


def summary_section(runs: Sequence[TrainingRun]) -> Section:
    """Return what every run was, a column each."""
    title = "Training runs"
    if not runs:
        return Section(title, [_NO_RUN])
    columns = [_summary(run) for run in runs]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    rows = [row for row in rows if any(cell != NONE for cell in row[1:])]
    table = Table(
        name="runs",
        caption="The runs. Hours are from the first to the last point of the curves of each "
        "start, without waiting; shares are of the tokens that were trained on.",
        header=["", *(run.name for run in runs)],
        rows=rows,
        files=[str(run.folder / RUN_RECORD) for run in runs],
    )
    return Section(title, [table])


def curves_section(runs: Sequence[TrainingRun]) -> Section:
    """Return training loss and validation nll of all runs."""
    title = "Learning curves"
    if not runs:
        return Section(title, [_NO_RUN])
    parts: list[Part] = []
    files = [str(run.folder) for run in runs]
    if any("train/loss" in run.curves for run in runs):
        caption = (
            "Training loss, as logged in the TensorBoard events; runs on the same sources share a "
            "panel, because losses on other texts are not comparable."
        )
        parts.append(Picture(name="loss_curves", caption=caption, png=loss_plot(runs), files=files))
    if validation_sources(runs):
        caption = (
            "Validation nll of each source. Hollow dot: before the run; filled dot: after it. A "
            "run that began with another one's weights starts anew at 0."
        )
        png = validation_plot(runs)
        parts.append(Picture(name="validation_curves", caption=caption, png=png, files=files))
        if table := _validation_table(runs):
            parts.append(table)
    missing = [run.name for run in runs if not run.curves]
    if missing:
        parts.append(f"No TensorBoard events lie in {', '.join(missing)}: no curves of them.")
    return Section(title, parts)


def _validation_table(runs: Sequence[TrainingRun]) -> Table | None:
    rows = []
    for run in runs:
        for source, (before, after) in run.validation("nll").items():
            both = before is not None and after is not None
            change = f"{after - before:+.3f}" if both else NONE  # type: ignore[operator]
            rows.append([run.name, source, _figure(before), _figure(after), change])
    if not rows:
        return None
    return Table(
        name="validation",
        caption="Validation nll (nats per token) before and after each run; run.json.",
        header=["run", "source", "before", "after", "change"],
        rows=rows,
        files=[str(run.folder / RUN_RECORD) for run in runs],
    )


def _summary(run: TrainingRun) -> dict[str, str]:
    record, actual = run.record, run.actual
    provenance = record["provenance"]
    starts = record.get("starts", [])
    ends = ", ".join(dict.fromkeys(str(start.get("end") or "not known") for start in starts))
    trained = record.get("parameters", {}).get("trained")
    return {
        "model": _model(run.settings),
        "began with": _began_with(run.settings),
        "parameters": _count(actual.total_parameters),
        "trained": NONE if trained == actual.total_parameters else _count(trained),
        "sources": ", ".join(record.get("sources", {})) or NONE,
        "shares wanted": _shares(_weights(run.settings)),
        "shares realised": _shares(
            {name: found.get("share") for name, found in record.get("realised", {}).items()}
        ),
        "epochs": _listed(record.get("realised", {}), "epochs", ".2f"),
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
