"""Every file under conf/ composes into a config that can be built."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from biomamba.config.check import check_config
from biomamba.config.safety import conf_dir

CONF = conf_dir()
PRIMARIES = (
    "train",
    "ledger",
    "evaluate",
    "compare",
    "report",
    "audit",
    "plan",
    "doctor",
    "efficiency",
    "reproduce",
    "generate",
    "export",
    "prepare",
    "verify",
)
MAX_YAML_LINES = 40
# A budget that every option of the data group divides; the demo's is too small for some.
BUDGET = {"train": ("max_tokens=524_288_000", "tokens_per_step=262_144")}
MIN_OPTIONS, MIN_EXPERIMENTS = 10, 3
FILES = sorted(CONF.rglob("*.yaml"))
FLOAT_INTEGER = re.compile(r"[:\[{,]\s*\d[\d.]*[eE]\+?\d+\s*([,}\]#]|$)", re.MULTILINE)


def is_part(path: Path) -> bool:
    """Files that start with _ are inherited by others, never chosen."""
    return path.name.startswith("_")


def conf_id(path: Path) -> str:
    return path.relative_to(CONF).with_suffix("").as_posix()


EXPERIMENTS = [p for p in FILES if conf_id(p).startswith("experiment/") and not is_part(p)]
OPTIONS = [p for p in FILES if p.parent != CONF and p not in EXPERIMENTS and not is_part(p)]


def config_of(path: Path) -> str:
    """Return the program of an experiment: the one its file name starts with, else `train`.

    All experiments in the folder eval are of `evaluate`, those in bench of `efficiency`.
    """
    folders = {"eval": "evaluate", "bench": "efficiency"}
    if path.parent.name in folders:
        return folders[path.parent.name]
    return next((name for name in PRIMARIES if path.stem.split("_")[0] == name), "train")


def groups_of(primary: str) -> set[str]:
    """Return the groups in the defaults list of a primary config."""
    primary_config: Any = OmegaConf.load(CONF / f"{primary}.yaml")
    defaults = primary_config.get("defaults", [])
    entries = [entry for entry in defaults if not isinstance(entry, str)]
    names = {str(key) for entry in entries for key in entry}
    return {name.split()[-1].split("@")[0].strip("/") for name in names}


def fill(cfg: DictConfig) -> DictConfig:
    """Give what only the user can know (a checkpoint, a run, own files) a value."""
    given: dict[str, Any] = {
        "checkpoint": "checkpoint.ckpt",
        "baseline": "checkpoint.ckpt",
        "format": "transformers",
        "output": "exported",
        "run": "runs/x",
        "runs": ["runs/x", "runs/y"],
        "corpora.files.domain": "notes",
        "corpora.files.rows.files": ["notes.txt"],
    }
    for key in OmegaConf.missing_keys(cfg) & given.keys():
        OmegaConf.update(cfg, key, given[key])
    return cfg


@pytest.mark.parametrize("primary", PRIMARIES)
def test_primary_config_can_be_built(primary: str, compose: Callable[..., DictConfig]) -> None:
    check_config(fill(compose(primary)))


@pytest.mark.parametrize("path", OPTIONS, ids=conf_id)
def test_option_can_be_built_where_its_group_is_chosen(
    path: Path, compose: Callable[..., DictConfig]
) -> None:
    group, name = conf_id(path).rsplit("/", 1)
    primaries = [primary for primary in PRIMARIES if group in groups_of(primary)]

    for primary in primaries:
        budget = BUDGET.get(primary, ())
        check_config(fill(compose(primary, f"{group}={name}", *budget)))
    if not primaries:
        check_config(fill(compose("train", f"+{group}={name}", *BUDGET["train"])))


def test_there_are_options_and_experiments_to_test() -> None:
    assert len(OPTIONS) >= MIN_OPTIONS
    assert len(EXPERIMENTS) >= MIN_EXPERIMENTS


@pytest.mark.parametrize("path", FILES, ids=conf_id)
def test_file_is_short_and_holds_no_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    resolvers = set(re.findall(r"\$\{\s*(\w[\w.]*)\s*:", text))

    assert len(text.splitlines()) <= MAX_YAML_LINES
    assert "${eval" not in text
    assert resolvers <= {"oc.env", "hydra", "now"}
    assert not FLOAT_INTEGER.search(text), "1e6 is a float in YAML; write 1_000_000"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=conf_id)
def test_experiment_is_merged_at_the_top_level(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# @package _global_\n")
