"""What a model card says about the training: data, contamination, procedure, restrictions."""

from collections.abc import Mapping, Sequence
from typing import Any

from biomamba.data.store_facts import StoreFacts
from biomamba.reporting.tables import markdown_table
from biomamba.training.lineage import Lineage, TrainedRun

_UNKNOWN = "not known"
_FILTER = (
    "documents that name an article of a benchmark item, or share words in a row with its texts, "
    "were left out. Copies are found; edited ones in part, and paraphrases are not "
    "(docs/results/contamination.md measures it). Results on files that are not listed here say "
    "`not filtered` below."
)


def data_section(lineage: Lineage) -> str:
    """Return what each run was trained on."""
    if not lineage.runs:
        return f"{_sentence(lineage.origin)} Training data, licences and mixture: {_UNKNOWN}."
    parts = [
        f"In order: {_chain(lineage)}. Each run is told of below, the last one first. A source "
        "with no share is validated on only, and of a task only the answers are trained on. The "
        "licences are those that the prepared data names; they are no legal advice."
    ]
    for run in lineage.runs:
        parts.append(f"### Data of run `{run.name}`")
        parts.append(_sources(run))
        if run.stores:
            parts.append(_corpora(run.stores))
        elif streamed := run.settings.get("data", {}).get("corpora"):
            parts.append(_streamed(streamed))
        if run.tasks:
            parts.append(_tasks(run.tasks))
        parts += [f"- {what}: corpora and licences {_UNKNOWN}" for what in run.unknown]
    return "\n\n".join(parts)


def contamination_section(lineage: Lineage) -> str:
    """Return which benchmarks the training data of each run were filtered against."""
    if not lineage.runs:
        return f"What the training data were filtered against is {_UNKNOWN}."
    return "\n\n".join(f"Run `{run.name}`: {_kept_out(run)}" for run in lineage.runs)


def procedure_section(lineage: Lineage, origin: Mapping[str, Any]) -> str:
    """Return how the runs were trained.

    Args:
        lineage: The runs.
        origin: Of the weights, as the export records it.
    """
    if not lineage.runs:
        return f"Steps, tokens, rate, precision and hardware are {_UNKNOWN}."
    table = {run.name: _procedure(run) for run in lineage.runs}
    keys = list(next(iter(table.values())))
    rows = [[key, *(facts[key] for facts in table.values())] for key in keys]
    parts = [markdown_table(["", *(f"run `{name}`" for name in table)], rows)]
    step = _step_of(lineage.runs[0], origin)
    parts.append(
        f"The weights are those of step {step} of run `{lineage.runs[0].name}`; what was trained "
        "on is told for the whole run."
    )
    return "\n\n".join(parts)


def restriction_note(lineage: Lineage) -> str:
    """Return a box for weights that may not be shared freely; empty for others."""
    restricted, unknown = lineage.restrictions(), lineage.unknown()
    if not restricted and not unknown:
        return ""
    lines = ["**Restricted data.**" if restricted else "**Terms of the training data not known.**"]
    if restricted:
        lines.append(
            "These weights were trained on data that may not be shared, and a language model can "
            "give back what it was trained on: treat them as restricted as the data. Do not upload "
            "them where the data may not lie."
        )
    lines += [f"- {why}" for why in restricted]
    lines += [f"- {what}: whether it may be shared is {_UNKNOWN}" for what in unknown]
    return "\n".join(f"> {line}" for line in lines)


def _chain(lineage: Lineage) -> str:
    names = [f"run `{run.name}`" for run in reversed(lineage.runs)]
    return ", then ".join([lineage.origin, *names])


def _sources(run: TrainedRun) -> str:
    known, realised = run.record.get("sources", {}), run.record.get("realised")
    rows = []
    for name in dict.fromkeys([*known, *(realised or {})]):
        size, seen = known.get(name, {}), (realised or {}).get(name, {})
        rows.append(
            [
                name,
                _count(size.get("num_documents")),
                _count(size.get("num_tokens")),
                _count(seen.get("tokens")),
                _number(seen.get("share"), ".1%"),
                _number(seen.get("epochs"), ".2f"),
            ]
        )
    header = ["source", "documents", "tokens of one epoch", "tokens trained on", "share", "epochs"]
    note = (
        ""
        if realised
        else ("The run has not finished: what it was trained on in fact is not known.\n\n")
    )
    return note + (markdown_table(header, rows) if rows else f"Its sources are {_UNKNOWN}.")


def _corpora(stores: Mapping[str, Sequence[StoreFacts]]) -> str:
    rows = [
        [
            facts.corpus,
            source,
            facts.licence or _UNKNOWN,
            facts.dataset or "local files",
            (facts.revision or "-")[:12],
            f"{facts.documents:,}",
            f"{facts.tokens:,}",
        ]
        for source, pool in stores.items()
        for facts in pool
    ]
    header = ["corpus", "source", "licence", "dataset", "revision", "documents", "tokens"]
    return markdown_table(header, rows)


def _streamed(corpora: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            str(node.get("licence", _UNKNOWN)),
            str((node.get("rows") or {}).get("dataset", "-")),
        ]
        for name, node in corpora.items()
    ]
    return markdown_table(["corpus, read while training", "licence", "dataset"], rows)


def _tasks(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            name,
            str(task.get("protocol", _UNKNOWN)),
            str(task.get("access", _UNKNOWN)),
            _count(task.get("train", {}).get("num_samples")),
            ", ".join(task.get("files", {})) or _UNKNOWN,
        ]
        for name, task in tasks.items()
    ]
    table = markdown_table(["task", "protocol", "access", "training samples", "files"], rows)
    return f"{table}\n\nThe licences of task files are {_UNKNOWN} to this card."


def _kept_out(run: TrainedRun) -> str:
    facts = [each for pool in run.stores.values() for each in pool]
    if run.tasks:
        return (
            "fine-tuned on the training splits of its tasks, never on their test splits; whether "
            f"its items stand in other benchmarks is {_UNKNOWN}."
        )
    streamed = run.record.get("data", {}).get("streamed", {}).get("benchmark_files")
    if streamed is not None:
        return f"{_FILTER}\n\n- all corpora, while they were read: {_files(streamed)}"
    if not facts:
        return f"what its data were filtered against is {_UNKNOWN}."
    lines = []
    for each in facts:
        if each.benchmarks is None:
            lines.append(f"- `{each.corpus}`: no benchmark was looked for")
            continue
        names = ", ".join(f"{name}{_items(n)}" for name, n in each.benchmarks.items())
        removed = each.rejects.get("benchmark", 0)
        files = "" if each.benchmark_files is None else f"; {_files(each.benchmark_files)}"
        lines.append(
            f"- `{each.corpus}`: filtered against {names}; documents left out: {removed:,}{files}"
        )
    return f"{_FILTER}\n\n" + "\n".join(lines)


def _files(files: Mapping[str, str]) -> str:
    """Return benchmark files with the beginnings of their hashes."""
    found = (f"`{name}` ({digest.removeprefix('sha256:')[:12]})" for name, digest in files.items())
    return f"files: {', '.join(found) or 'none'}"


def _items(counts: Mapping[str, int]) -> str:
    if not counts:
        return " (counts not known)"
    return f" ({counts['items']:,} items, {counts['items_found']:,} of them found in the set)"


def _procedure(run: TrainedRun) -> dict[str, str]:
    record, settings = run.record, run.settings
    told, budget = record.get("provenance", {}), settings.get("data", {}).get("budget", {})
    git, machine = told.get("git") or {}, told.get("machine", {})
    realised = record.get("realised", {})
    starts = record.get("starts", [])
    gpus = machine.get("gpus") or []
    trained = sum(found.get("tokens", 0) for found in realised.values())
    commit = str(git.get("commit", _UNKNOWN)) + (", changed" if git.get("is_dirty") else "")
    return {
        "last step": _count(record.get("after", {}).get("step")),
        "tokens trained on": _count(trained or None),
        "tokens per step": _count(settings.get("tokens_per_step")),
        "length of a row": _count(budget.get("seq_len")),
        "optimizer": _kind(settings.get("optimizer")),
        "learning rate": str((settings.get("optimizer") or {}).get("lr", _UNKNOWN)),
        "schedule": _kind(settings.get("schedule")),
        "precision": str(settings.get("trainer", {}).get("precision", _UNKNOWN)),
        "parameters": _count(record.get("parameters", {}).get("total")),
        "of them trained": _count(record.get("parameters", {}).get("trained")),
        "hardware": ", ".join(gpus) or str(machine.get("cpu", _UNKNOWN)),
        "processes": _count(starts[-1].get("world_size") if starts else None),
        "seed": str(settings.get("seed", _UNKNOWN)),
        "commit": commit,
        "config sha256": str(told.get("config_sha256", _UNKNOWN)),
        "data fingerprint": str(record.get("data_fingerprint", _UNKNOWN)),
    }


def _step_of(run: TrainedRun, origin: Mapping[str, Any]) -> str:
    step = origin.get("step")
    if step is None and str(origin.get("path", "")).rstrip("/").endswith("_best"):
        step = run.record.get("selection", {}).get("step")
    elif step is None:
        step = run.record.get("after", {}).get("step")
    return _count(step)


def _kind(node: Mapping[str, Any] | None) -> str:
    return str((node or {}).get("_target_", _UNKNOWN)).rpartition(".")[2]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _count(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.0f}"


def _number(value: float | None, style: str) -> str:
    return _UNKNOWN if value is None else f"{value:{style}}"
