"""No number of any config may be NaN, infinite or beyond 64 bits, and no value object takes NaN."""

import dataclasses
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from biomamba.config.annotations import join_key, parameter_hints, plain_tree
from biomamba.config.check import config_problems
from biomamba.config.compose import compose_config, preflight
from biomamba.config.safety import is_value_object
from biomamba.config.schema import SCHEMAS
from biomamba.runtime.errors import ConfigError

# Overrides that choose most of the classes that a config can build.
CHOICES = {
    "train": ["callbacks=ema_select", "schedule=warmup_cosine", "+adaptation=lora"],
    "evaluate": ["task=[pubmedqa,medqa,note_completion,bioasq_factoid]", "answers=head"],
    "prepare": ["corpus=[embedded_web,pubmed,medrag,medline]"],
    "generate": [],
    "audit": [],
    "compare": [],
    "plan": [],
    "efficiency": [],
    "report": [],
    "export": [],
    "doctor": [],
    "ledger": [],
    "reproduce": [],
    "verify": [],
}


@cache
def composed(program: str) -> DictConfig:
    return compose_config(program, CHOICES[program])


def numeric_keys(tree: Any, key: str = "") -> Iterator[str]:
    """Yield the dotted keys of all numbers."""
    if isinstance(tree, int | float) and not isinstance(tree, bool):
        yield key
    if isinstance(tree, dict | list):
        for name, child in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from numeric_keys(child, join_key(key, name))


def built(node: Any, found: list[Any]) -> Any:
    """Build a plain tree as far as it consists of frozen dataclasses, and collect these."""
    if isinstance(node, list):
        return [built(child, found) for child in node]
    if not isinstance(node, dict):
        return node
    children = {name: built(child, found) for name, child in node.items() if name != "_target_"}
    if "_target_" in node and is_value_object(get_object(node["_target_"])):
        found.append(get_object(node["_target_"])(**children))
        return found[-1]
    return children


def test_every_program_is_covered() -> None:
    assert set(CHOICES) == {name.removesuffix("_schema") for name in SCHEMAS}


WITHOUT_NUMBERS = ("doctor", "ledger", "verify")


@pytest.mark.parametrize("value", [math.nan, -math.inf, 2**63])
@pytest.mark.parametrize("program", [name for name in CHOICES if name not in WITHOUT_NUMBERS])
def test_no_number_of_a_program_may_be_out_of_all_range(program: str, value: float) -> None:
    cfg = OmegaConf.create(OmegaConf.to_container(composed(program), resolve=False))
    keys = list(numeric_keys(plain_tree(cfg)[0]))
    for key in keys:
        OmegaConf.update(cfg, key, value)
    found = [line.split(":")[0] for line in config_problems(cfg)]

    assert keys
    assert set(keys) <= set(found)


@pytest.mark.parametrize("program", ["train", "evaluate", "prepare", "plan", "generate", "compare"])
def test_value_objects_take_no_number_that_is_not_finite(program: str) -> None:
    tree, _ = plain_tree(composed(program))
    accepted: list[str] = []
    found: list[Any] = []
    built({k: v for k, v in tree.items() if k not in ("tasks", "corpora")}, found)
    assert found
    for made in found:
        hints = parameter_hints(type(made))
        for field in dataclasses.fields(made):
            if hints[field.name] in (float, float | None):
                for value in (math.nan, math.inf):
                    try:
                        dataclasses.replace(made, **{field.name: value})
                    except ValueError:
                        continue
                    accepted.append(f"{type(made).__name__}.{field.name}={value}")

    assert not accepted


@pytest.mark.parametrize(
    ("program", "override", "key"),
    [
        ("train", "seed=4294967296", "seed"),
        ("train", "seed=-1", "seed"),
        ("train", "seed=1.5", "seed"),
        ("train", "data.seed=-3", "data.seed"),
        ("train", "max_tokens=0", "max_tokens"),
        ("train", "tokens_per_step=-1024", "tokens_per_step"),
        ("train", "objective.max_grad_norm=nan", "objective.max_grad_norm"),
        ("train", "optimizer.weight_decay=nan", "optimizer.weight_decay"),
        ("train", "optimizer.weight_decay=-inf", "optimizer.weight_decay"),
        ("train", "optimizer.lr=inf", "optimizer.lr"),
        ("train", "optimizer.lr=-1e-3", "optimizer"),
        ("train", "optimizer.betas=[0.9,nan]", "optimizer.betas.1"),
        ("train", "optimizer.eps=0", "optimizer"),
        ("train", "schedule.warmup_ratio=nan", "schedule.warmup_ratio"),
        ("train", "data.mixture.weights.web=nan", "data.mixture.weights.web"),
        ("train", "trainer.log_every_n_steps=nan", "trainer.log_every_n_steps"),
        ("train", "trainer.val_check_interval=inf", "trainer.val_check_interval"),
        ("train", "callbacks.preemption.margin_seconds=nan", "callbacks.preemption.margin_seconds"),
        ("generate", "text.tokens.sampling.temperature=nan", "text.tokens.sampling.temperature"),
        ("generate", "batch_size=0", "batch_size"),
        ("prepare", "num_workers=0", "num_workers"),
        ("evaluate", "evaluation.bootstrap.level=1", "evaluation.bootstrap"),
        ("evaluate", "seed=99999999999", "seed"),
        ("export", "max_shard_bytes=-1", "max_shard_bytes"),
        ("ledger", "pmid=-5", "pmid"),
        ("reproduce", "jobs=0", "jobs"),
        ("compare", "comparison.power=nan", "comparison.power"),
        ("plan", "allowance.start_minutes=inf", "allowance.start_minutes"),
    ],
)
def test_a_number_out_of_range_is_reported_by_key(program: str, override: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preflight(program, [override])
    keys = [line.split(":")[0].split("=")[0].strip() for line in str(caught.value).splitlines()]
    assert key in keys


def test_a_number_of_more_than_64_bits_is_reported_once_with_what_was_found() -> None:
    cfg = OmegaConf.create({"a": 2**63, "b": {"c": [-(2**63)]}, "d": 2**63 - 1})

    assert config_problems(cfg) == [
        f"a: must fit into 64 bits, found {2**63}",
        f"b.c.0: must fit into 64 bits, found {-(2**63)}",
    ]
