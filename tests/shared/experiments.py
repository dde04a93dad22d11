"""The shipped experiments: their programs, what they compose to, and which is the twin of which."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from biomamba.config.compose import compose_config
from biomamba.config.experiments import program_of
from biomamba.config.safety import conf_dir

FOLDER = conf_dir() / "experiment"
ALL = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix()
    for path in FOLDER.rglob("*.yaml")
    if not path.name.startswith("_")
)
# bench/ measures speed: docs/efficiency.md tells of it.
NAMES = [name for name in ALL if not name.startswith("bench/")]
# What only the user can know.
GIVEN = {"checkpoint": "model", "baseline": "model"}
SCALE = re.compile(r"_(130m|370m|780m|1_3b|2_7b)(?=_|$)")
REFERENCE = "ablation/mix_80_10_10"
SMALL_REFERENCE = f"{REFERENCE}_small"
# The rule of twin_of does not find these: one small run stands for several, or has another name.
TWINS = {
    **dict.fromkeys(("cpt/prepare", "scaling/prepare"), "real_text/prepare"),
    "ablation/prepare_leakage": "ablation/prepare_leaky",
    "ablation/mix_pubmed_only": "ablation/domain_pubmed_only_small",
    **dict.fromkeys(
        (
            "ablation/packing_reset",
            "ablation/leakage_clean",
            "ablation/decontamination_on",
            "scaling/tokens_524M",
        ),
        SMALL_REFERENCE,
    ),
    **{f"scaling/pubmed_{n}M_tokens": "scaling/pubmed_016k_small" for n in (1, 3, 10)},
    **{f"scaling/pubmed_{n}M_tokens": "scaling/pubmed_066k_small" for n in (30, 100, 300)},
    **{f"scaling/tokens_{n}M": "scaling/tokens_082k_small" for n in (34, 67)},
    **{f"scaling/tokens_{n}M": "scaling/tokens_164k_small" for n in (134, 268)},
    "scaling/tokens_1074M": "scaling/tokens_655k_small",
    "sft/factoid_130m_v1": "sft/factoid_small",
}


def is_small(name: str) -> bool:
    """Say whether one CPU core is enough."""
    is_demo = name.startswith(("demo/", "real_text/"))
    return is_demo or "_small" in name or name == "ablation/prepare_leaky"


def twin_of(name: str) -> str | None:
    """Return the small twin of an experiment; None for those that are small themselves."""
    if is_small(name):
        return None
    scaled = SCALE.sub("_small", name)
    return TWINS.get(name, scaled if scaled != name else f"{name}_small")


@cache
def _composed(name: str) -> DictConfig:
    cfg = compose_config(program_of(name), [f"+experiment={name}"])
    for key in OmegaConf.missing_keys(cfg) & GIVEN.keys():
        OmegaConf.update(cfg, key, GIVEN[key])
    return cfg


def composed(name: str) -> DictConfig:
    """Return what the program of an experiment receives; a copy, composed once."""
    return _composed(name).copy()


def aspects(name: str) -> dict[str, Any]:
    """Return what an experiment in training does, apart from its scale."""
    cfg = composed(name)
    is_scratch = cfg.model.checkpoint is None
    rate = cfg.optimizer.lr / _composed(reference_of(name)).optimizer.lr
    objective = cfg.objective
    return {
        "model": cfg.model.config._target_,
        "static": list(cfg.model.config.static),
        "is_scratch": is_scratch,
        "rate": "of its own" if is_scratch else round(rate, 6),
        "layer_decay": cfg.optimizer.layer_decay,
        "schedule": {key: cfg.schedule[key] for key in cfg.schedule if key != "total_tokens"},
        "is_averaged": cfg.callbacks.ema is not None,
        "segments": objective.segment_tokens and objective.segment_state,
        "is_a_row_one_segment": objective.segment_tokens in (None, cfg.data.budget.seq_len),
        "packing": OmegaConf.to_container(cfg.data.packing),
        **(_of_tasks(cfg.data) if "tasks" in cfg.data else _of_corpora(cfg.data)),
    }


def changes(name: str) -> set[str]:
    """Return the aspects in which an experiment differs from the reference of its size."""
    found, reference = aspects(name), aspects(reference_of(name))
    return {key for key, value in found.items() if value != reference.get(key)}


def reference_of(name: str) -> str:
    """Return what an experiment of this size is compared with."""
    return SMALL_REFERENCE if is_small(name) else REFERENCE


def _of_tasks(data: Any) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(data)
    return {
        "shares": _renamed(plain["shares"] or {}),
        "ratios": _renamed(plain["balance"]["ratios"]),
        "class_weighted": plain["balance"]["class_weighted"],
    }


def _of_corpora(data: Any) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(data, resolve=True)
    weights = _renamed(plain["mixture"]["weights"])
    if "pubmedqa" in weights:  # how much differs with the number of tokens
        weights = dict.fromkeys(weights, "some")
    folders = [folder for pool in plain["sources"].values() for folder in pool]
    kinds = {folder.split("/")[-2].partition("_")[2] for folder in folders}
    return {
        "weights": weights,
        "unit": plain["mixture"]["unit"],
        "limited": sorted(plain["max_train_tokens"] or {}),
        "sets": sorted(kinds - {"medrag", ""}),
    }


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by the names that they have at paper scale."""
    return {name.replace("web", "c4").removesuffix("_local"): v for name, v in values.items()}
