"""Stand-ins for the classes and files that a configuration names."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from biomamba.config import safety as targets
from biomamba.runtime.errors import DataError

FILES = {
    "train.yaml": """
defaults:
  - train_schema
  - _self_
  - model: tiny
  - optimizer: adamw
name: test
run_id: one
seed: 1
max_tokens: 1_000
tokens_per_step: 10
sources: {}
data: {}
schedule: {}
trainer: {}
paths: {data_dir: data, run_dir: "runs/${name}/${run_id}"}
hydra: {run: {dir: "${paths.run_dir}"}, job: {chdir: false}}
""",
    "model/tiny.yaml": "{_target_: biomamba.stand_in.Budget, max_tokens: 8, step_tokens: 4}",
    "model/_base.yaml": "{}",
    "optimizer/adamw.yaml": "{_target_: biomamba.stand_in.Optimizer, lr: 1.0e-3}",
    "debug/quick.yaml": "# @package _global_\nmax_tokens: 10\n",
    "experiment/cpt/good.yaml": "# @package _global_\noptimizer: {weight_decay: 0.5}\n",
    "experiment/cpt/nested_typo.yaml": "# @package _global_\noptimizer: {lrr: 0.5}\n",
    "experiment/typo.yaml": "# @package _global_\ntraner: {}\nname: typo\nsede: 2\n",
}


@dataclass(frozen=True)
class Budget:
    """A value object with a rule of its own."""

    max_tokens: int
    step_tokens: int = 1

    def __post_init__(self) -> None:
        if self.max_tokens % self.step_tokens:
            raise ValueError(
                f"max_tokens {self.max_tokens} is no multiple of step_tokens {self.step_tokens}"
            )


@dataclass(frozen=True)
class Files:
    """A value object whose mistake is about data."""

    paths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.paths:
            raise DataError(f"no such file: {self.paths[0]}")


@dataclass(frozen=True)
class Optimizer:
    """A value object with optional values."""

    lr: float
    weight_decay: float = 0.0
    eps: float = 1e-8


class Heavy:
    """Something that a check must not build."""

    num_built = 0

    def __init__(self, budget: Budget, scale: float = 1.0, mode: str = "fast") -> None:
        type(self).num_built += 1
        if scale < 0:
            raise ValueError(f"scale must not be negative, found {scale}")
        if mode == "defect":
            raise ZeroDivisionError("a defect")
        self.budget, self.scale = budget, scale


def make(**settings: Any) -> dict[str, Any]:
    """Return whatever it is given."""
    return settings


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Offer the classes of this file as biomamba.stand_in."""
    module = ModuleType("biomamba.stand_in")
    items = (Budget, Files, Heavy, Optimizer, make)
    for item in items:
        monkeypatch.setattr(item, "__module__", module.__name__)
        setattr(module, item.__name__, item)
    module.sys = sys  # type: ignore[attr-defined]
    monkeypatch.setattr(Heavy, "num_built", 0)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = (f"{module.__name__}.{item.__name__}" for item in items)
    own = targets.Group(frozenset(names))
    keys = ("a", "b", "d", "data", "model", "optimizer", "plain", "budget", "deep", "unknown")
    for key in keys:
        monkeypatch.setitem(targets.GROUPS, key, targets.GROUPS.get(key, targets.Group()) | own)
    return module


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return a folder of small YAML files in the layout of conf/."""
    folder = tmp_path / "conf"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip(), encoding="utf-8")
    return folder
