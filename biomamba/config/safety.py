"""What configuration files may name, read and do, wherever they come from."""

import dataclasses
import difflib
import importlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import (
    ImportlibResourcesConfigSource,
)
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from biomamba.config.annotations import describe, fits, parameter_hints, select
from biomamba.config.messages import report, unknown_name
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.input_files import check_yaml

# -------------------------------------------------------------------------------------------------
# Where the configuration files are: inside an installed package, or beside it in a checkout.
# -------------------------------------------------------------------------------------------------

_PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir(package: Path = _PACKAGE) -> Path:
    """Return the folder of the YAML files.

    The wheel carries them as biomamba/conf; a checkout keeps them at its top level.

    Raises:
        ConfigError: neither folder exists.
    """
    candidates = (package / "conf", package.parent / "conf")
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"no configuration files: neither {candidates[0]} nor {candidates[1]} exists; "
        "install the package again (pip install .) or run from a complete checkout"
    )


# -------------------------------------------------------------------------------------------------
# The classes that a config may name, and whether the arguments it gives to them fit.
#
# A config file may come from someone else (`--config-dir`, the settings in a run folder), so
# `_target_` takes a closed list: for each top-level key the named classes of `GROUPS`, and what its
# open packages offer. An open package is one of this project where a new file adds a corpus, a
# benchmark, a task, a backend or a callback; a class there counts if it fulfills the contract of
# the package or is a frozen dataclass, which holds settings and does nothing. Private names, names
# that a module only imports, and functions that are not on the list are refused.
# -------------------------------------------------------------------------------------------------

TARGET = "_target_"

# Modules that configs, checkpoints and run folders of earlier versions name, and where their
# classes are now. The entries stay: a run that was started before a move continues after it.
MOVED_MODULES = {
    "data.budget": "data.mixture",
    "data.cleaning.benchmarks.bioasq": "data.cleaning.benchmarks",
    "data.cleaning.benchmarks.pubmedqa": "data.cleaning.benchmarks",
    "data.cleaning.benchmarks.texts": "data.cleaning.benchmarks",
    "data.cleaning.benchmarks.wikitext": "data.cleaning.benchmarks",
    "data.cleaning.firewall": "data.cleaning.benchmark_filter",
    "data.corpora.c4": "data.corpora.table",
    "data.corpora.columns": "data.corpora.table",
    "data.corpora.medrag": "data.corpora.table",
    "data.corpora.mimic_note": "data.corpora.table",
    "data.corpora.mtsamples": "data.corpora.table",
    "data.corpora.pubmed": "data.corpora.table",
    "data.corpora.wikipedia": "data.corpora.table",
    "data.corpora.wikitext": "data.corpora.table",
    "data.hub_rows": "data.remote",
    "data.store": "data.store.writer",
    "data.streaming.source_reader": "data.streaming.readers",
    "data.tokenizer_source": "data.tokenizer",
    "data.xml_files": "data.nlm_download",
    "evaluation.answer_options": "evaluation.answers",
    "inference.text_generator": "inference.text_generation",
    "metrics.interval": "metrics.measure",
    "model.adaptation": "model.lora",
    "model.sampling": "model.generation",
    "reporting.metadata_section": "reporting.metadata",
    "tasks.aci_bench": "tasks.dialogues",
    "tasks.bioasq_factoid": "tasks.bioasq",
    "tasks.bioasq_list": "tasks.bioasq",
    "tasks.bioasq_yesno": "tasks.bioasq",
    "tasks.choice_rows": "tasks.multiple_choice",
    "tasks.discharge_summary": "tasks.clinical_notes",
    "tasks.instruct_balance": "tasks.instruct",
    "tasks.instruct_budget": "tasks.instruct",
    "tasks.mts_dialog": "tasks.dialogues",
    "tasks.note_completion": "tasks.clinical_notes",
    "timing.settings": "timing.records",
    "training.callbacks.agreement": "training.callbacks.preemption",
    "training.callbacks.ema": "training.callbacks.averaging",
    "training.callbacks.histograms": "training.callbacks.tensorboard",
    "training.callbacks.throughput": "training.callbacks.tensorboard",
    "training.objective": "training.module",
    "training.schedule": "training.optimizer",
}
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def current_name(name: str) -> str:
    """Return the dotted name of a class where it is now; other names come back unchanged."""
    module, _, attribute = name.rpartition(".")
    moved = MOVED_MODULES.get(module.removeprefix("biomamba."))
    is_ours = module.startswith("biomamba.")
    return f"biomamba.{moved}.{attribute}" if is_ours and moved else name


def with_current_names(settings: Any) -> Any:
    """Return plain settings with every `_target_` in them named as it is now."""
    if isinstance(settings, Mapping):
        return {
            key: current_name(value)
            if key == TARGET and isinstance(value, str)
            else with_current_names(value)
            for key, value in settings.items()
        }
    if isinstance(settings, list):
        return [with_current_names(value) for value in settings]
    return settings


class TargetError(Exception):
    """A `_target_` cannot be used; the text says why."""


@dataclass(frozen=True)
class Package:
    """A package whose classes may be named if they fulfill a contract.

    Attributes:
        name: Of the package; a module of it may be at any depth.
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
    "document.SplitRule",
    "nlm_download.LocalFiles",
    "nlm_download.NlmMirror",
    "remote.HubRows",
    "rows.LocalRows",
)
_BENCHMARKS = Group(
    packages=(
        Package("biomamba.data.cleaning.benchmarks", "biomamba.data.cleaning.benchmarks.Benchmark"),
    )
)
_CORPORA = Group(
    packages=(Package("biomamba.data.corpora", "biomamba.data.corpora.corpus.Corpus"),)
)
_TASKS = Group(packages=(Package("biomamba.tasks", "biomamba.tasks.task.Task"),))
_TOKENIZERS = _group("biomamba.data.tokenizer", "ByteLevel", "Pretrained", "TrainedBpe")
_CLEANING = _BENCHMARKS | _group(
    "biomamba.data.cleaning",
    "benchmark_filter.Firewall",
    "near_duplicates.NearDuplicates",
    "policy.Cleaning",
)
_TEXT = _group(
    "biomamba",
    "inference.text_generation.TextOptions",
    "model.generation.GenerationOptions",
    "model.generation.Sampling",
)
_COMPARISON = _group(
    "biomamba", "evaluation.comparison.ComparisonSettings", "metrics.measure.Bootstrap"
)
# By top-level key of a configuration. Whoever adds a class outside the open packages adds its
# name here; tests/config/test_targets.py compares the table with the files of conf/.
GROUPS: dict[str, Group] = {
    "allowance": _group("biomamba.planning.duration", "Allowance"),
    "answers": _group("biomamba.evaluation", "answers.AnswerOptions", "label_head.HeadOptions"),
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
        "datamodule.PretrainDataModule",
        "mixture.Mixture",
        "mixture.Stage",
        "mixture.TokenBudget",
        "packing.BestFit",
        "packing.SingleDocument",
        "streaming.datamodule.StreamingDataModule",
        "streaming.readers.Reading",
    )
    | _group("biomamba.tasks.instruct", "InstructDataModule"),
    "efficiency": _group("biomamba.timing.records", "EfficiencySettings"),
    "evaluation": _group(
        "biomamba", "evaluation.runner.EvaluationSettings", "metrics.measure.Bootstrap"
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
        "lora.Adaptation",
        "lora.Lora",
        packages=(Package("biomamba.model.backends", "biomamba.model.ssd.ScanBackend"),),
    ),
    "objective": _group("biomamba.training", "module.Objective", "step_guard.SpikeDetection"),
    "optimizer": _group("biomamba.training.optimizer", "AdamW"),
    "probing": _group("biomamba.planning.probe", "Probe"),
    "report": _COMPARISON
    | _group(
        "biomamba.reporting", "metadata.MetadataSettings", "paper.Paper", "report.ReportSettings"
    ),
    "sampling": _TEXT,
    "schedule": _group("biomamba.training.optimizer", "Constant", "WarmupDecay"),
    "split": _group("biomamba.data.store.writer", "StorePolicy"),
    "tasks": _TASKS | _CORPORA | _ROWS,
    "text": _TEXT,
    "tokenizer": _TOKENIZERS,
    "trainer": _group("lightning.pytorch", "Trainer")
    | _group("biomamba.training.strategy", "ddp", "fsdp"),
    "verbatim": _group("biomamba.evaluation.verbatim", "VerbatimSettings"),
}


def check_target_name(name: object, key: str) -> str:
    """Return the dotted name of a `_target_` where the class is now; nothing is imported.

    Args:
        name: What the config says.
        key: Dotted key of the node; its first part names the group. Empty for a node that has no
            place in a configuration, as one that code has made: all groups count.

    Raises:
        TargetError: The name is not on the list of the group.
    """
    group = _group_of(key)
    name = current_name(name) if isinstance(name, str) else name
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
    """Yield what is wrong with the arguments of one node, nested nodes ignored."""
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


# -------------------------------------------------------------------------------------------------
# Names that become part of a folder or file name.
# -------------------------------------------------------------------------------------------------

# A file beside it may add a suffix: 255 bytes is the longest name of the usual file systems.
MAX_BYTES = 200
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@-]*")
_RULE = (
    f"a plain name of 1 to {MAX_BYTES} of the characters A-Z a-z 0-9 _ . + = , @ - that starts "
    "with a letter, digit or _"
)
# Keys of mappings from names: of stores, files of answers, pools of documents.
_NAME_KEYS = ("corpora", "sources", "tasks", "data.sources", "data.corpora", "data.tasks")
_NAME_KEYS_BELOW = ("cleaning.firewall.benchmarks", "data.cleaning.firewall.benchmarks")
_PATHS = ("paths.run_dir", "paths.data_dir", "output")


def name_problems(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line per name of a config that cannot be a part of a path, and per such path.

    Args:
        tree: The config as plain values; what could not be resolved is ignored.
    """
    for key in ("run_id", "name"):
        if key in tree and tree[key] is not None:
            yield from _problem(tree[key], f"{key}:", has_folders=key == "name")
    for key in (*_NAME_KEYS, *_NAME_KEYS_BELOW):
        names = select(tree, key)
        for name in names if isinstance(names, dict) else ():
            if not str(name).startswith("_"):
                yield from _problem(name, f"{key}: a name in it")
    callbacks = tree.get("callbacks")
    names = callbacks if isinstance(callbacks, dict) else ()
    for key in (*_PATHS, *(f"callbacks.{name}.folder" for name in names)):
        yield from _path_problem(select(tree, key), key)


def _problem(value: Any, key: str, *, has_folders: bool = False) -> Iterator[str]:
    if not isinstance(value, str):
        return
    parts = value.split("/") if has_folders else [value]
    if not all(_NAME.fullmatch(part) and len(part) <= MAX_BYTES for part in parts):
        rule = f"{_RULE}; several may be joined by /" if has_folders else _RULE
        yield f"{key} must be {rule}, found {_shown(value)}"


def _path_problem(value: Any, key: str) -> Iterator[str]:
    if not isinstance(value, str):
        return
    if not value.strip() or not value.isprintable() or value.startswith("-") or "${" in value:
        yield f"{key}: must be a path without control characters, found {_shown(value)}"
    elif key == "paths.run_dir" and PurePath(value).name in ("", ".."):
        yield f"{key}: must be a folder of its own for the run, found {_shown(value)}"
    elif any(len(part.encode()) > MAX_BYTES for part in PurePath(value).parts):
        yield f"{key}: has a part of more than {MAX_BYTES} bytes, found {_shown(value)}"


def _shown(value: str) -> str:
    return repr(value if len(value) <= 60 else f"{value[:60]}...")


# -------------------------------------------------------------------------------------------------
# What configuration files may not do, wherever they come from.
#
# A file of someone else may be read through `--config-dir`, a search path, or the settings in a run
# folder. Which classes it may name is decided above; here is the rest: the environment that
# it may read, the folders that it may read from, and the keys of Hydra itself, which start plugins,
# configure logging by class name and set environment variables.
# -------------------------------------------------------------------------------------------------

# Names that a config may read with ${oc.env:NAME}. Never a name that holds a secret: what a
# config reads ends up in paths, records and printed lines.
ENVIRONMENT = (
    *("HOME", "HOSTNAME", "SCRATCH", "TMPDIR", "USER", "WORK"),
    *("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE"),  # of torchrun
)
ENVIRONMENT_PREFIXES = ("BIOMAMBA_", "SLURM_")
_SECRET_WORDS = ("AUTH", "CRED", "JWT", "KEY", "PASS", "SECRET", "TOKEN")
_PLUGINS = {
    "launcher": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "sweeper": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
}
_LOG_FILE = "${hydra.runtime.output_dir}/${hydra.job.name}.log"
_LOG_KEYS = {
    "": ("version", "root", "handlers", "formatters", "loggers", "disable_existing_loggers"),
    "formatters": ("format", "datefmt"),
    "handlers": ("class", "formatter", "stream", "filename", "level", "mode"),
    "loggers": ("level", "handlers", "propagate"),
}
_LOG_VALUES = {
    "class": ("logging.StreamHandler", "logging.FileHandler"),
    "stream": ("ext://sys.stdout", "ext://sys.stderr"),
    "filename": (_LOG_FILE,),
}
_UNSET = object()


def install() -> None:
    """Make OmegaConf and Hydra follow the rules of this module; may be called again."""
    restrict_environment()
    Plugins.instance()  # registers the readers that are replaced here
    SourcesRegistry.instance().types |= {"file": _Files, "pkg": _Packages}


def restrict_environment() -> None:
    """Let ${oc.env:NAME} read the names of this module only, in every config of the process."""
    OmegaConf.register_new_resolver("oc.env", _environment_value, replace=True)


def _environment_value(name: str, default: Any = _UNSET) -> Any:
    is_listed = name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)
    if not is_listed or any(word in name.upper() for word in _SECRET_WORDS):
        prefixes = [f"{prefix}*" for prefix in ENVIRONMENT_PREFIXES]
        raise ConfigError(
            f"a config may not read the environment variable {name!r}; allowed: "
            f"{', '.join([*ENVIRONMENT, *prefixes])} (none with {', '.join(_SECRET_WORDS)})"
        )
    if name in os.environ:
        return os.environ[name]
    if default is _UNSET:
        raise ConfigError(
            f"the environment variable {name!r} is not set; set it, or give a default with "
            f"${{oc.env:{name},default}}"
        )
    return default


class _Files(FileConfigSource):
    """Reads the YAML files of a folder, and none outside it."""

    def load_config(self, config_path: str) -> ConfigResult:
        name = PurePosixPath(config_path)
        # By name: a link inside the folder is the choice of its owner.
        if name.is_absolute() or ".." in name.parts:
            raise ConfigError(f"config file {config_path}: is outside its folder {self.path}")
        path = Path(self.path, self._normalize_file_name(config_path))
        if path.is_file() and Path(self.path) != conf_dir():
            check_yaml(path, error=ConfigError)
        return super().load_config(config_path)


class _Packages(ImportlibResourcesConfigSource):
    """Reads the files of Hydra and its plugins; a package of a config would be imported."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider=provider, path=path)
        if provider.startswith("hydra.searchpath"):
            raise ConfigError(f"hydra.searchpath: {path} is a package; name a folder, file://...")


@contextmanager
def checked_loading() -> Iterator[None]:
    """Check the `hydra` node of every config that Hydra composes, also of the jobs of a sweep.

    Raises:
        ConfigError: From within Hydra; the node could run or write something unforeseen.
    """
    loader: Any = ConfigLoaderImpl
    original = loader.load_configuration

    def load(*arguments: Any, **options: Any) -> DictConfig:
        cfg: DictConfig = original(*arguments, **options)
        problems = hydra_problems(cfg.hydra)
        if problems:
            raise ConfigError(report("the configuration", problems))
        return cfg

    loader.load_configuration = load
    try:
        yield
    finally:
        loader.load_configuration = original


def hydra_problems(hydra: DictConfig) -> list[str]:
    """Return one line per key of the `hydra` node that could run or write something unforeseen."""
    node: Any = OmegaConf.to_container(hydra, resolve=False)
    return [f"hydra.{problem}" for problem in _hydra_problems(node)]


def _hydra_problems(node: dict[str, Any]) -> Iterator[str]:
    for name, target in _PLUGINS.items():
        found = (node.get(name) or {}).get("_target_")
        if found not in (target, None, "???"):
            yield f"{name}._target_: must be {target}, found {found!r}"
    if node.get("callbacks"):
        yield f"callbacks: must be empty, found {', '.join(map(str, node['callbacks']))}"
    job = node.get("job") or {}
    if job.get("env_set"):
        names = ", ".join(map(str, job["env_set"]))
        yield f"job.env_set: must be empty, found {names}; set variables in the shell"
    if node.get("output_subdir") not in (None, ".hydra"):
        yield f"output_subdir: must be .hydra or null, found {node['output_subdir']!r}"
    job_name = job.get("name")
    if job_name is not None and not str(job_name).replace("_", "").isalnum():
        yield f"job.name: letters, digits and _ only, found {job_name!r}"
    for name in ("job_logging", "hydra_logging"):
        yield from _logging_problems(node.get(name), name)


def _logging_problems(node: Any, key: str) -> Iterator[str]:
    """Judge what becomes an argument of logging.config.dictConfig, which calls what `()` names."""
    if node is None:
        return
    if not isinstance(node, dict):
        yield f"{key}: must be a mapping, found {type(node).__name__}"
        return
    yield from _unknown(node, _LOG_KEYS[""], key)
    sections = {"root": ("loggers", {"": node.get("root") or {}})} | {
        name: (name, node.get(name) or {}) for name in ("formatters", "handlers", "loggers")
    }
    for name, (kind, entries) in sections.items():
        for entry, content in entries.items() if isinstance(entries, dict) else ():
            place = ".".join(part for part in (key, name, str(entry)) if part)
            if not isinstance(content, dict):
                yield f"{place}: must be a mapping, found {type(content).__name__}"
                continue
            yield from _unknown(content, _LOG_KEYS[kind], place)
            for field, value in content.items():
                allowed = _LOG_VALUES.get(str(field))
                if allowed and value not in allowed:
                    yield f"{place}.{field}: must be {' or '.join(allowed)}, found {value!r}"
                elif "ext://" in str(value).replace("ext://sys.std", "") or "cfg://" in str(value):
                    yield f"{place}.{field}: may not refer to an object, found {value!r}"


def _unknown(node: dict[str, Any], known: tuple[str, ...], key: str) -> Iterator[str]:
    for name in node:
        if name not in known:
            yield f"{key}.{name}: is not allowed here; allowed: {', '.join(known)}"
