"""The results in a model card: only those that were measured on the weights of the card."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from biomamba.evaluation.records import ResultRecord, read_records
from biomamba.evaluation.simple_answers import MAJORITY, RANDOM
from biomamba.evaluation.task_records import TaskRecord, read_task_records
from biomamba.reporting.tables import perplexity_table
from biomamba.reporting.task_tables import filter_notes, task_table
from biomamba.runtime.errors import DataError


@dataclass(frozen=True, kw_only=True)
class CardResults:
    """The figures of one evaluation that belong to the weights.

    Attributes:
        name: Of its folder.
        texts: Perplexity and bits per byte of the texts of sources.
        tasks: Figures of tasks, with those of the simple answers to the same items.
        left_out: The other models of the evaluation, in words.
    """

    name: str
    texts: Sequence[ResultRecord]
    tasks: Sequence[TaskRecord]
    left_out: Sequence[str]

    @property
    def subjects(self) -> list[str]:
        """The sources and tasks that were measured, in words."""
        texts = [f"{record.source} ({record.split} split)" for record in self.texts]
        tasks = [f"{record.task} ({record.split} split)" for record in self.tasks]
        return list(dict.fromkeys([*texts, *tasks]))


def check_results(folder: Path) -> None:
    """Raise DataError unless a folder of card.results holds the records of an evaluation."""
    names = ("results.jsonl", "task_results.jsonl")
    if not any((folder / name).is_file() for name in names):
        raise DataError(
            f"card.results: {folder} holds neither {' nor '.join(names)}; name folders that "
            "biomamba.evaluate has finished"
        )


def read_results(folder: Path, sha256: str) -> CardResults:
    """Read an evaluation, and keep what was measured on the weights with this sha256.

    Raises:
        DataError: There is no evaluation, or none of these weights: its models are named.
    """
    check_results(folder)
    texts_path, tasks_path = folder / "results.jsonl", folder / "task_results.jsonl"
    texts = read_records(texts_path) if texts_path.is_file() else []
    tasks = read_task_records(tasks_path) if tasks_path.is_file() else []
    found = CardResults(
        name="/".join(folder.absolute().parts[-2:]),
        texts=[record for record in texts if _sha256_of(record) == sha256],
        tasks=_own_tasks(tasks, sha256),
        left_out=_others([*texts, *tasks], sha256),
    )
    if not found.subjects:
        raise DataError(
            f"card.results: {folder} holds no figure of the weights that are exported (sha256 "
            f"{sha256[:12]}), only of {', '.join(found.left_out) or 'none'}; evaluate the folder "
            "that you export, or leave this one out"
        )
    return found


def results_section(found: Sequence[CardResults], dtype: str) -> str:
    """Return the results as Markdown."""
    if not found:
        return "No results were given to this card: how good the model is, is not known from it."
    parts = ["Figures with brackets are a value with its interval; the records name its level."]
    if dtype != "float32":
        parts.append(
            f"They were measured on the weights before these were rounded to {dtype} for this "
            "folder."
        )
    for results in found:
        parts.append(f"### `{results.name}`")
        if results.texts:
            parts += [_source_notes(results.texts), perplexity_table(results.texts)]
        if results.tasks:
            parts += [_task_notes(results.tasks), task_table(results.tasks)]
        if results.left_out:
            parts.append(
                f"Left out, because they are not these weights: {', '.join(results.left_out)}."
            )
    return "\n\n".join(parts)


def _sha256_of(record: ResultRecord | TaskRecord) -> str | None:
    if isinstance(record, TaskRecord):
        return record.checkpoint_sha256
    known = record.provenance.get("checkpoints", {}).get(record.model, {}).get("sha256")
    return None if known is None else str(known)


def _own_tasks(records: Sequence[TaskRecord], sha256: str) -> list[TaskRecord]:
    """Return the figures of the weights, and the simple answers to the tasks of these."""
    own = {record.task for record in records if record.checkpoint_sha256 == sha256}
    return [
        record
        for record in records
        if record.checkpoint_sha256 == sha256
        or (record.model in (MAJORITY, RANDOM) and record.task in own and record.against is None)
    ]


def _others(records: Iterable[ResultRecord | TaskRecord], sha256: str) -> list[str]:
    found = []
    for record in records:
        other = _sha256_of(record)
        is_simple = isinstance(record, TaskRecord) and record.model in (MAJORITY, RANDOM)
        if not is_simple and other != sha256:
            told = "sha256 not recorded" if other is None else f"sha256 {other[:12]}"
            found.append(f"`{record.model}` ({told})")
    return list(dict.fromkeys(found))


def _source_notes(records: Sequence[ResultRecord]) -> str:
    levels = sorted({f"{record.level:.0%}" for record in records})
    splits = sorted({record.split for record in records})
    return (
        f"Texts of the {', '.join(splits)} split; intervals of {', '.join(levels)} over documents."
        f" {_origin(records[0])}"
    )


def _task_notes(records: Sequence[TaskRecord]) -> str:
    lines = [_origin(records[0])]
    for task in dict.fromkeys(record.task for record in records):
        first = next(r for r in records if r.task == task and r.checkpoint_sha256 is not None)
        answer = ", ".join(
            str(first.answer[key]) for key in ("by", "decision") if key in first.answer
        )
        lines.append(
            f"- `{task}`: protocol {first.protocol}, {first.split} split, prompt {first.prompt}, "
            f"answers by {answer or 'a rule that is not recorded'}, intervals of {first.level:.0%}"
        )
    against = {
        f"`{record.model}` is compared with `{record.against}` "
        f"(sha256 {_sha256_against(record)[:12]})"
        for record in records
        if record.against is not None
    }
    notes = [
        "Column `filtered`: whether the files of the test are among those that the training data "
        "of the model were filtered against",
        *filter_notes(records),
        *sorted(against),
    ]
    return "\n".join([*lines, *(f"- {line}" for line in notes)])


def _sha256_against(record: TaskRecord) -> str:
    known = record.provenance.get("checkpoints", {}).get(record.against, {})
    return str(known.get("sha256", "not known"))


def _origin(record: ResultRecord | TaskRecord) -> str:
    told = record.provenance
    commit = (told.get("git") or {}).get("commit", "not known")
    return f"Evaluated at commit {commit}, config {told.get('config_sha256', 'not known')}."
