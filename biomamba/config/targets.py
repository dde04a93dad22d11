"""The classes that a config may name, and whether the arguments it gives to them fit.

A config file may come from someone else (`--config-dir`, the settings in a run folder), so
`_target_` takes a closed list: for each top-level key the named classes of `GROUPS`, and what
its open packages offer. An open package is one of this project where a new file adds a corpus, a
benchmark, a task, a backend or a callback; a class there counts if it fulfills the contract of
the package or is a frozen dataclass, which holds settings and does nothing. Private names,
names that a module only imports, and functions that are not on the list are refused.
"""

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from biomamba.config.annotations import describe, fits, parameter_hints
from biomamba.config.wording import unknown_name

TARGET = "_target_"
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class TargetError(Exception):
    """A `_target_` cannot be used; the text says why."""


@dataclass(frozen=True)
class Package:
    """A package whose classes may be named if they fulfill a contract.

    Attributes:
        name: Of the package; a module of it may lie at any depth.
        contract: Dotted name of the base class, or of the protocol whose methods are needed.
    """

    name: str
    contract: str

    def holds(self, name: str) -> bool:
        """Say whether a dotted name is one of this package."""
        return name.startswith(f"{self.name}.")

    def accepts(self, target: type) -> bool:
        """Say whether a class fulfills the contract or is a frozen dataclass."""
        if inspect.isabstract(target) or getattr(target, "_is_protocol", False):
            return False
        return is_value_object(target) or _fulfills(target, self.contract)

    def __str__(self) -> str:
        return f"a {self.contract.rpartition('.')[2]} in {self.name}"


@dataclass(frozen=True)
class Group:
    """What may be named below one top-level key.

    Attributes:
        names: Dotted names of classes, and of the few functions.
        packages: Open packages.
    """

    names: frozenset[str] = frozenset()
    packages: tuple[Package, ...] = ()

    def __or__(self, other: "Group") -> "Group":
        return Group(self.names | other.names, (*self.packages, *other.packages))

    def offers(self, name: str) -> bool:
        """Say whether a dotted name may be imported to look at it."""
        return name in self.names or any(package.holds(name) for package in self.packages)

    def accepts(self, name: str, target: Any) -> bool:
        """Say whether what a name stands for may be built."""
        if name in self.names:
            return True
        is_own = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
        return (
            inspect.isclass(target)
            and is_own == name
            and any(package.holds(name) and package.accepts(target) for package in self.packages)
        )

    def __str__(self) -> str:
        return ", ".join([*sorted(self.names), *map(str, self.packages)])


def _group(prefix: str, *names: str, packages: tuple[Package, ...] = ()) -> Group:
    return Group(frozenset(f"{prefix}.{name}" for name in names), packages)


_ROWS = _group(
    "biomamba.data",
    "rows.LocalRows",
    "hub_rows.HubRows",
    "xml_files.LocalFiles",
    "nlm_download.NlmMirror",
    "document.SplitRule",
)
_BENCHMARKS = Group(
    packages=(
        Package(
            "biomamba.data.cleaning.benchmarks", "biomamba.data.cleaning.benchmarks.item.Benchmark"
        ),
    )
)
_CORPORA = Group(
    packages=(Package("biomamba.data.corpora", "biomamba.data.corpora.corpus.Corpus"),)
)
_TASKS = Group(packages=(Package("biomamba.tasks", "biomamba.tasks.task.Task"),))
_TOKENIZERS = _group("biomamba.data.tokenizer_source", "ByteLevel", "Pretrained", "TrainedBpe")
_CLEANING = _BENCHMARKS | _group(
    "biomamba.data.cleaning",
    "policy.Cleaning",
    "firewall.Firewall",
    "near_duplicates.NearDuplicates",
)
_TEXT = _group(
    "biomamba",
    "inference.text_generator.TextOptions",
    "model.generation.GenerationOptions",
    "model.sampling.Sampling",
)
_COMPARISON = _group(
    "biomamba", "evaluation.comparison.ComparisonSettings", "metrics.interval.Bootstrap"
)

# By top-level key of a configuration. Whoever adds a class outside the open packages adds its
# name here; tests/config/test_targets.py compares the table with the files of conf/.
GROUPS: dict[str, Group] = {
    "allowance": _group("biomamba.planning.duration", "Allowance"),
    "answers": _group(
        "biomamba.evaluation", "answer_options.AnswerOptions", "label_head.HeadOptions"
    ),
    "callbacks": _TEXT
    | _group(
        "lightning.pytorch.callbacks",
        "DeviceStatsMonitor",
        "LearningRateMonitor",
        "ModelSummary",
        "RichModelSummary",
        "RichProgressBar",
        "ThroughputMonitor",
        "TQDMProgressBar",
        packages=(Package("biomamba.training.callbacks", "lightning.pytorch.callbacks.Callback"),),
    ),
    "chain": _group("biomamba.workflow.chain", "Chain"),
    "cleaning": _CLEANING,
    "comparison": _COMPARISON,
    "corpora": _CORPORA | _BENCHMARKS | _ROWS,
    "data": _CORPORA
    | _BENCHMARKS
    | _ROWS
    | _TASKS
    | _TOKENIZERS
    | _CLEANING
    | _group(
        "biomamba.data",
        "budget.TokenBudget",
        "datamodule.PretrainDataModule",
        "mixture.Mixture",
        "mixture.Stage",
        "packing.BestFit",
        "packing.SingleDocument",
        "streaming.datamodule.StreamingDataModule",
        "streaming.source_reader.Reading",
    )
    | _group("biomamba.tasks.instruct", "InstructDataModule"),
    "efficiency": _group("biomamba.timing.settings", "EfficiencySettings"),
    "evaluation": _group(
        "biomamba", "evaluation.runner.EvaluationSettings", "metrics.interval.Bootstrap"
    ),
    "generation": _TEXT,
    "hardware": _group("biomamba.planning.hardware", "Hardware"),
    "leakage": _group("biomamba.evaluation.leakage", "LeakageSettings"),
    "logger": _group("lightning.pytorch.loggers", "CSVLogger", "TensorBoardLogger"),
    "model": _group(
        "biomamba.model",
        "checkpoint.build_model",
        "config.Mamba1Config",
        "config.Mamba2Config",
        "adaptation.Adaptation",
        "lora.Lora",
        packages=(Package("biomamba.model.backends", "biomamba.model.ssd.ScanBackend"),),
    ),
    "objective": _group("biomamba.training", "objective.Objective", "step_guard.SpikeDetection"),
    "optimizer": _group("biomamba.training.optimizer", "AdamW"),
    "probing": _group("biomamba.planning.probe", "Probe"),
    "report": _COMPARISON
    | _group(
        "biomamba.reporting",
        "report.ReportSettings",
        "metadata_section.MetadataSettings",
        "paper.Paper",
    ),
    "sampling": _TEXT,
    "schedule": _group("biomamba.training.schedule", "Constant", "WarmupDecay"),
    "split": _group("biomamba.data.store", "StorePolicy"),
    "tasks": _TASKS | _CORPORA | _ROWS,
    "text": _TEXT,
    "tokenizer": _TOKENIZERS,
    "trainer": _group("lightning.pytorch", "Trainer")
    | _group("biomamba.training.strategy", "ddp", "fsdp"),
    "verbatim": _group("biomamba.evaluation.verbatim", "VerbatimSettings"),
}


def check_target_name(name: object, key: str) -> str:
    """Return the dotted name of a `_target_`; nothing is imported.

    Args:
        name: What the config says.
        key: Dotted key of the node; its first part names the group. Empty for a node that has no
            place in a configuration, as one that code has made: all groups count.

    Raises:
        TargetError: The name is not on the list of the group.
    """
    group = _group_of(key)
    if not isinstance(name, str) or not _is_public(name) or not group.offers(name):
        raise TargetError(_refusal(name, key, group))
    return name


def load_target(name: object, key: str = "") -> Any:
    """Return the class or function of a `_target_`; arguments as in `check_target_name`.

    Raises:
        TargetError: The name is not on the list of the group, or cannot be imported.
    """
    group, name = _group_of(key), check_target_name(name, key)
    module, _, attribute = name.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise TargetError(f"cannot import {name}: {reason}") from error
    if not group.accepts(name, target):
        raise TargetError(_refusal(name, key, group))
    return target


def is_value_object(target: Any) -> bool:
    """Say whether something is a frozen dataclass, which holds values and does nothing."""
    parameters = getattr(target, "__dataclass_params__", None)
    return dataclasses.is_dataclass(target) and bool(getattr(parameters, "frozen", False))


def call_problems(target: Any, node: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the arguments of one node, nested nodes left aside."""
    name = node[TARGET]
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:
        return
    named = [p for p in parameters.values() if p.kind in _NAMED]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    accepted = [p.name for p in named]
    if not takes_any:
        for key in sorted(given.keys() - set(accepted)):
            yield f"{unknown_name('key', key, accepted)} (parameters of {name})"
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in given:
            yield f"key '{parameter.name}' is missing; {name} needs it"
    yield from _type_problems(target, given)


def parameter_names(node: Any, key: str = "") -> list[str]:
    """Return the names that a node's target accepts; none if it is no usable node."""
    try:
        target = load_target(node[TARGET], key)
        return [p.name for p in inspect.signature(target).parameters.values() if p.kind in _NAMED]
    except (TargetError, ValueError, KeyError, TypeError):
        return []


def _type_problems(target: Any, given: dict[str, Any]) -> Iterator[str]:
    hints = parameter_hints(target)
    for key, value in given.items():
        if key in hints and not fits(value, hints[key]):
            found = f"{type(value).__name__} {value!r}"
            yield f"key '{key}' must be {describe(hints[key])}, found {found}"


def _group_of(key: str) -> Group:
    if key:
        return GROUPS.get(key.partition(".")[0], Group())
    group = Group()
    for other in GROUPS.values():
        group |= other
    return group


def _is_public(name: str) -> bool:
    return all(part.isidentifier() and not part.startswith("_") for part in name.split("."))


def _fulfills(target: type, contract: str) -> bool:
    module, _, name = contract.rpartition(".")
    base = getattr(importlib.import_module(module), name)
    if not getattr(base, "_is_protocol", False):
        return issubclass(target, base)
    # A property of a protocol may be a field of the class, so only methods are compared.
    methods = [n for n, value in vars(base).items() if inspect.isfunction(value) and n[0] != "_"]
    return all(callable(getattr(target, method, None)) for method in methods)


def _refusal(name: object, key: str, group: Group) -> str:
    place = key.partition(".")[0]
    if not group.names and not group.packages:
        return f"{TARGET} is not allowed below '{place}', which builds nothing; found {name!r}"
    close = difflib.get_close_matches(str(name), group.names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    where = f" below '{place}'" if place else ""
    return f"{TARGET} {name!r} is not one of the classes allowed{where}{hint}: {group}"
