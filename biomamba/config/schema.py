"""The keys a program accepts at the top level of its configuration.

Each primary config names its schema first in its defaults list, so that Hydra refuses any other
top-level key, also one that is in an experiment file. Everything below an `Any` key is
checked against the class that it builds (see check.py). A key without a default must be set by
the YAML files.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from biomamba.config.safety import install

_BOUNDS = "bounds"


def _whole(default: Any = MISSING, **bounds: Any) -> Any:
    """Declare an integer and its bounds, as arguments of check_whole."""
    return field(default=default, metadata={_BOUNDS: bounds})


def number_bounds(schema: Any) -> dict[str, Mapping[str, Any]]:
    """Return the bounds of the numbers of a schema, by key; none for another class."""
    fields = dataclasses.fields(schema) if dataclasses.is_dataclass(schema) else ()
    return {each.name: each.metadata[_BOUNDS] for each in fields if _BOUNDS in each.metadata}


@dataclass
class Paths:
    """Folders that a program reads and writes."""

    data_dir: str = MISSING
    run_dir: str = MISSING
    raw_dir: str | None = None


@dataclass
class TrainSchema:
    """Top-level keys of `biomamba.train`."""

    name: str = MISSING
    run_id: str = MISSING
    seed: int = MISSING
    max_tokens: int | None = _whole(optional=True)
    tokens_per_step: int = _whole()
    paths: Paths = field(default_factory=Paths)
    sources: Any = MISSING
    data: Any = MISSING
    tasks: Any = field(default_factory=dict)
    corpora: Any = None
    cleaning: Any = None
    model: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    objective: Any = None
    trainer: Any = MISSING
    callbacks: Any = None
    logger: Any = None
    resume: str | None = "auto"
    allow_change: bool = False


@dataclass
class EvaluateSchema:
    """Top-level keys of `biomamba.evaluate`."""

    name: str = MISSING
    run_id: str = MISSING
    seed: int = MISSING
    paths: Paths = field(default_factory=Paths)
    checkpoint: str | None = MISSING
    baseline: str | None = None
    split: str = MISSING
    tokenizer_file: str | None = None
    sources: Any = MISSING
    model: Any = MISSING
    tasks: Any = None
    answers: Any = MISSING
    evaluation: Any = MISSING


@dataclass
class GenerateSchema:
    """Top-level keys of `biomamba.generate`."""

    checkpoint: str = MISSING
    tokenizer_file: str | None = None
    prompts: str | None = None
    output: str = MISSING
    batch_size: int = _whole()
    seed: int = MISSING
    model: Any = MISSING
    sampling: Any = MISSING
    generation: Any = MISSING
    text: Any = MISSING


@dataclass
class PrepareSchema:
    """Top-level keys of `biomamba.prepare`."""

    name: str = MISSING
    run_id: str = MISSING
    paths: Paths = field(default_factory=Paths)
    corpora: Any = MISSING
    tokenizer: Any = MISSING
    cleaning: Any = MISSING
    firewall: bool = True
    split: Any = MISSING
    num_workers: int = _whole(1)
    worker_timeout_seconds: float | None = 900.0
    part: str | None = None
    overwrite: bool = False


@dataclass
class VerifySchema:
    """Top-level keys of `biomamba.verify`."""

    name: str | None = None
    stores: Any = None
    run_id: str = MISSING
    paths: Paths = field(default_factory=Paths)


@dataclass
class LedgerSchema:
    """Top-level keys of `biomamba.ledger`."""

    run: str = MISSING
    compare: str | None = None
    document: str | None = None
    pmid: int | None = _whole(None, optional=True)
    source: str | None = None


@dataclass
class CompareSchema:
    """Top-level keys of `biomamba.compare`."""

    run_id: str = MISSING
    seed: int = MISSING
    runs: Any = MISSING
    comparison: Any = MISSING
    output: str = MISSING


@dataclass
class ReportSchema:
    """Top-level keys of `biomamba.report`."""

    run_id: str = MISSING
    seed: int = MISSING
    title: str = MISSING
    runs: Any = MISSING
    report: Any = MISSING
    output: str = MISSING


@dataclass
class AuditSchema:
    """Top-level keys of `biomamba.audit`."""

    name: str = MISSING
    run_id: str = MISSING
    paths: Paths = field(default_factory=Paths)
    tasks: Any = None
    leakage: Any = MISSING
    texts: str | None = None
    corpora: Any = None
    verbatim: Any = MISSING


@dataclass
class CardSchema:
    """Keys under `card` of `biomamba.export`."""

    license: str | None = None
    language: list[str] = MISSING
    results: list[str] = MISSING
    allow_restricted: bool = False


@dataclass
class ExportSchema:
    """Top-level keys of `biomamba.export`."""

    checkpoint: str = MISSING
    weights: str = MISSING
    format: str = MISSING
    dtype: str = MISSING
    container: str = MISSING
    max_shard_bytes: int = _whole()
    tokenizer_file: str | None = None
    output: str = MISSING
    overwrite: bool = False
    card: CardSchema = field(default_factory=CardSchema)


@dataclass
class PlanSchema(TrainSchema):
    """Top-level keys of `biomamba.plan`: those of a training, and what it is planned for.

    It is merged over train.yaml, so what has a default there must have none here.
    """

    tasks: Any = MISSING
    corpora: Any = MISSING
    cleaning: Any = MISSING
    objective: Any = MISSING
    callbacks: Any = MISSING
    logger: Any = MISSING
    resume: str | None = MISSING
    allow_change: bool = MISSING
    hardware: Any = MISSING
    allowance: Any = MISSING
    probe: bool = MISSING
    probing: Any = MISSING
    run: str | None = None
    output: str | None = MISSING


@dataclass
class EfficiencySchema:
    """Top-level keys of `biomamba.efficiency`."""

    name: str = MISSING
    run_id: str = MISSING
    seed: int = MISSING
    paths: Paths = field(default_factory=Paths)
    model: Any = MISSING
    transformer: bool = MISSING
    efficiency: Any = MISSING
    overwrite: bool = False


@dataclass
class DoctorSchema:
    """Top-level keys of `biomamba.doctor`."""

    paths: Paths = field(default_factory=Paths)
    precision: str | None = None
    output: str | None = None


@dataclass
class ReproduceSchema:
    """Top-level keys of `biomamba.reproduce`."""

    paths: Paths = field(default_factory=Paths)
    chain: Any = MISSING
    jobs: int = _whole()
    rerun: list[str] = MISSING
    dry_run: bool = MISSING
    print: str | None = None


SCHEMAS = {
    "audit_schema": AuditSchema,
    "train_schema": TrainSchema,
    "plan_schema": PlanSchema,
    "doctor_schema": DoctorSchema,
    "efficiency_schema": EfficiencySchema,
    "ledger_schema": LedgerSchema,
    "evaluate_schema": EvaluateSchema,
    "compare_schema": CompareSchema,
    "report_schema": ReportSchema,
    "generate_schema": GenerateSchema,
    "export_schema": ExportSchema,
    "prepare_schema": PrepareSchema,
    "reproduce_schema": ReproduceSchema,
    "verify_schema": VerifySchema,
}


def register_schemas() -> None:
    """Make the schemas available to the defaults lists under conf/, and Hydra follow our rules."""
    install()
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=name, node=schema)
