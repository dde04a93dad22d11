"""The model card of an export, from records only; what they do not say is called not known."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from biomamba.data.store.format import StoreFacts
from biomamba.evaluation.records import ResultRecord, TaskRecord, read_records, read_task_records
from biomamba.evaluation.task_runner import MAJORITY, RANDOM
from biomamba.model.config import MambaConfig
from biomamba.reporting.tables import filter_notes, markdown_table, perplexity_table, task_table
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.training.lineage import Lineage, TrainedRun

# -------------------------------------------------------------------------------------------------
# The results in a model card: only those that were measured on the weights of the card.
# -------------------------------------------------------------------------------------------------


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


# -------------------------------------------------------------------------------------------------
# What a model card says about the training: data, contamination, procedure, restrictions.
# -------------------------------------------------------------------------------------------------

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
        f"In order: {_chain(lineage)}. Each run is described below, the last one first. A source "
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
        "on is listed for the whole run."
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
            "them where the data may not be."
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
            f"its items are in other benchmarks is {_UNKNOWN}."
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


# -------------------------------------------------------------------------------------------------
# The README.md of an exported folder: only what records say; what they do not say is not known.
# -------------------------------------------------------------------------------------------------

README = "README.md"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True, kw_only=True)
class CardTerms:
    """What no record knows.

    Attributes:
        license: Identifier of the Hub for the terms of the weights; None if not stated.
        language: Codes of the languages of the model, as `en`; empty if not stated.

    Raises:
        ConfigError: A value has not the form of one.
    """

    license: str | None = None
    language: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise ConfigError(
                f"card.license is {self.license!r}; give an identifier of the Hub, as apache-2.0, "
                "or null if it is not decided"
            )
        for code in self.language:
            if not _LANGUAGE.fullmatch(code):
                raise ConfigError(f"card.language has {code!r}; give codes as en or de")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """All that a card is made of.

    Attributes:
        name: Of the model: that of its folder.
        config: Of the model.
        origin: Of the weights, as the export records it.
        dtype: Of the written weights.
        lineage: How it was trained.
        results: Evaluations of these weights.
        terms: What the user states.
        has_tokenizer: Whether the folder has one.
    """

    name: str
    config: MambaConfig
    origin: Mapping[str, Any]
    dtype: str
    lineage: Lineage
    results: Sequence[CardResults]
    terms: CardTerms
    has_tokenizer: bool = True


def model_card(facts: CardFacts) -> str:
    """Return the text of the card."""
    note = restriction_note(facts.lineage)
    sections = {
        "": "\n\n".join(filter(None, [_description(facts), note])),
        "How to load it": _loading(facts),
        "Training data": data_section(facts.lineage),
        "Contamination": contamination_section(facts.lineage),
        "Training procedure": procedure_section(facts.lineage, facts.origin),
        "Results": results_section(facts.results, facts.dtype),
        "Intended use and limits": _limits(facts),
        "Licence": _licence(facts.terms),
        "Citation": _citation(facts),
    }
    body = [f"## {title}\n\n{text}" if title else text for title, text in sections.items()]
    return "\n\n".join([f"---\n{front_matter(facts)}---", f"# {facts.name}", *body]) + "\n"


def front_matter(facts: CardFacts) -> str:
    """Return the YAML that the Hub reads; keys of which nothing is known are not there."""
    kind = facts.config.layer.lower()
    terms, lineage = facts.terms, facts.lineage
    content: dict[str, Any] = {}
    if terms.language:
        content["language"] = list(terms.language)
    content["license"] = terms.license or "other"
    if terms.license is None:
        content["license_name"] = "not-stated"
    if lineage.base_model:
        content["base_model"] = lineage.base_model
    if datasets := _datasets(lineage):
        content["datasets"] = datasets
    content["library_name"] = "transformers"
    content["pipeline_tag"] = "text-generation"
    tags = ["biomamba", "mamba" if kind == "mamba1" else kind]
    content["tags"] = [*tags, "restricted-data"] if lineage.restrictions() else tags
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _datasets(lineage: Lineage) -> list[str]:
    """Return the hub datasets of all runs; local files have no id there."""
    found = {
        facts.dataset
        for run in lineage.runs
        for pool in run.stores.values()
        for facts in pool
        if facts.dataset
    }
    return sorted(found)


def _description(facts: CardFacts) -> str:
    config = facts.config
    kind = "Mamba-1" if config.layer == "Mamba1" else config.layer
    return (
        f"A {kind} causal language model, written by biomamba: {config.n_layer} layers, width "
        f"{config.d_model}, state {config.d_state}, {config.vocab_size:,} ids, weights in "
        f"{facts.dtype}. Everything below is taken from the records of its runs and evaluations; "
        "what they do not say is called not known.\n\n"
        f"sha256 of the source of the weights: `{facts.origin.get('sha256', 'not known')}`"
    )


def _loading(facts: CardFacts) -> str:
    if not facts.has_tokenizer:
        return (
            "`AutoModelForCausalLM.from_pretrained(folder)`. No tokenizer is in this folder: the "
            "one that the model was trained with is not known to this card."
        )
    return f"""\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{facts.name}")
tokenizer = AutoTokenizer.from_pretrained("{facts.name}")
inputs = tokenizer(tokenizer.bos_token + "The patient was", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```

```sh
python -m biomamba.generate checkpoint={facts.name} prompt="The patient was"
python -m biomamba.evaluate checkpoint={facts.name} task=[pubmedqa]
```

Every document of the training starts with the end-of-document token, which is also the
beginning-of-document token: start a prompt with it, as above (biomamba does it by itself). In a
text, AutoTokenizer reads the literal name of this token as the token; biomamba reads it as plain
text, and so does `tokenizer(text, split_special_tokens=True)`. Generation is greedy unless told
otherwise."""


def _limits(facts: CardFacts) -> str:
    subjects = list(dict.fromkeys(name for found in facts.results for name in found.subjects))
    measured = ", ".join(subjects) or "nothing that this card was given"
    return (
        "For research on language models. This is not a medical device, and it is not for clinical "
        "decisions: no output may be used to diagnose, treat or advise a person.\n\n"
        f"- Evaluated on: {measured}. Of anything else nothing is known.\n"
        "- It writes text that can be wrong and sound right, and it can repeat parts of its "
        "training data.\n"
        "- Its records hold no measurement of bias."
    )


def _licence(terms: CardTerms) -> str:
    if terms.license is None:
        return (
            "Not stated. Ask those who published this folder before you use it; the licences of "
            "the training data above hold as well."
        )
    return (
        f"{terms.license}, as stated by those who published this folder; the licences of the "
        "training data above hold as well."
    )


def _citation(facts: CardFacts) -> str:
    lines = [
        "A paper about this model is not known to this card. The architecture:",
    ]
    mamba1 = "Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023"
    mamba2 = (
        "Dao and Gu, Transformers are SSMs: Generalized Models and Efficient Algorithms Through "
        "Structured State Space Duality, 2024"
    )
    lines.append(f"{mamba1 if facts.config.layer == 'Mamba1' else mamba2}.")
    if facts.lineage.base_model:
        lines.append(f"Cite also what `{facts.lineage.base_model}` asks for.")
    return " ".join(lines)
