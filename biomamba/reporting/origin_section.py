"""Where every figure of a report comes from."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from biomamba.reporting.report_folders import RESULTS, RUN_RECORD, TASK_RESULTS
from biomamba.reporting.report_inputs import Evaluation, ReportInputs
from biomamba.reporting.run_sections import NONE, commit
from biomamba.reporting.section import Picture, Section, Table, labels_of

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
