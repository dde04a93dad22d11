"""Say what a run will need, before it is started: memory, time, disk, and what to submit.

    python -m biomamba.plan +experiment=cpt/mamba2_2_7b hardware=v100_8
    python -m biomamba.plan +experiment=demo/adapt hardware=cpu probe=true
    python -m biomamba.plan run=runs/demo/adapt

Takes the settings of biomamba.train. Arithmetic on shapes; only probe=true computes. With `run` the
settings are those of a run that was made, and what it needed is beside the plan. Exit code 3 if
the run does not fit.
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    signals.start_program()

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning import Trainer
from omegaconf import DictConfig, ListConfig, OmegaConf

from biomamba.config.annotations import select
from biomamba.config.check import build
from biomamba.config.cli import run_cli
from biomamba.config.run_settings import checked_part, plain_part, settings_path, stored_config
from biomamba.config.safety import load_target
from biomamba.data.mixture import TokenBudget
from biomamba.model.config import Mamba2Config
from biomamba.planning.duration import Rate, measured_rate
from biomamba.planning.hardware import Hardware
from biomamba.planning.memory import Layout, Parameters, RunSettings
from biomamba.planning.plan import Plan, compare, make_plan, read_actual
from biomamba.planning.probe import Probe, StepTimer
from biomamba.reporting.text import comparison_text, plan_text
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import write_json
from biomamba.runtime.input_files import (
    COUNT,
    FLAG,
    LIST,
    OBJECT,
    TEXT,
    WHOLE,
    Each,
    Shape,
    check_replaceable,
    check_shape,
    check_yaml,
)
from biomamba.runtime.provenance import machine, provenance
from biomamba.runtime.random_state import seed_everything
from biomamba.runtime.ranks import is_rank_zero
from biomamba.tasks.instruct import InstructBudget
from biomamba.training.launch import check_launch, check_precision, quiet_lightning
from biomamba.training.module import LanguageModelingModule, Objective

DOES_NOT_FIT_CODE = 3
_PLAN_KEYS = ("hardware", "memory_per_rank", "provenance")  # of the file that is written
# Keys of the plan itself, which the line to submit leaves out.
_OWN_KEYS = ("hardware", "probe", "probing", "allowance", "output", "run", "hydra", "run_id")

# Of the settings of a run: what must be there, what is built, and what else is read.
_NEEDED = ("trainer.precision", "data.budget", "model.config", "model.backend._target_")
_BUILT = ("data.budget", "model.config", "model.backend", "model.adaptation", "objective")
_PROBED = ("trainer", "model", "optimizer", "schedule")
_SHAPE: dict[str, Shape] = {
    "trainer": {
        "precision": TEXT,
        "devices": COUNT,
        "num_nodes": COUNT,
        "val_check_interval": COUNT,
    },
    "data": {
        "budget": {"seq_len": WHOLE, "max_tokens": WHOLE},
        "max_val_documents": WHOLE,
        "sources": Each(LIST),
    },
    "model": {
        "config": OBJECT,
        "backend": {"_target_": TEXT, "chunk_size": WHOLE},
        "activation_checkpointing": FLAG,
    },
    "callbacks": {"checkpoint": {"keep_last": WHOLE, "keep_every_steps": WHOLE}},
}


def main(cfg: DictConfig) -> int | None:
    """Plan a run, print the plan and write it."""
    quiet_lightning()
    if cfg.output is not None:
        check_replaceable(Path(cfg.output), _PLAN_KEYS, "an earlier plan")
    settings = cfg if cfg.run is None else settings_of_run(Path(cfg.run), is_probed=cfg.probe)
    hardware: Hardware = build(cfg.hardware).resolved()
    run = run_settings(settings, hardware)
    rate = probe(settings, hardware, build(cfg.probing), run) if cfg.probe else None
    plan = make_plan(
        run,
        hardware,
        build(cfg.allowance),
        overrides=submitted(overrides_of(cfg.run)),
        measured=rate,
        stores_bytes=stores_bytes(settings),
    )
    if not is_rank_zero():
        return None
    tell(cfg, plan)
    is_good = plan.memory.fits or cfg.run is not None
    return None if is_good else DOES_NOT_FIT_CODE


def tell(cfg: DictConfig, plan: Plan) -> None:
    """Print the plan, beside the run if there is one, and write it."""
    print(plan_text(plan))
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    content = plan.to_dict() | {"provenance": provenance(config)}
    if cfg.run is not None:
        rows = compare(content, read_actual(Path(cfg.run)))
        content["run"] = [vars(row) | {"ratio": row.ratio} for row in rows]
        print(f"\n{comparison_text(rows)}")
    if cfg.output is not None:
        write_json(Path(cfg.output), content)
        print(f"\nplan: {cfg.output}")


def run_settings(cfg: DictConfig, hardware: Hardware) -> RunSettings:
    """Read from a training configuration what the plan depends on.

    Raises:
        ConfigError: The precision is none that trains, or the size of the run is not known.
    """
    check_precision(cfg.trainer.precision)
    if cfg.data.budget.max_tokens is None:
        raise ConfigError(
            "max_tokens is null: a plan needs the size of the run, set max_tokens (and "
            "data.budget.epochs=null where epochs say it)"
        )
    budget: TokenBudget | InstructBudget = build(cfg.data.budget)
    model, backend = build(cfg.model.config), cfg.model.backend
    callbacks = cfg.get("callbacks") or {}
    checkpoint = callbacks.get("checkpoint") or {}
    objective: Objective = build(cfg.get("objective")) or Objective()
    name = load_target(backend._target_, "model.backend").name
    return RunSettings(
        model=model,
        parameters=Parameters.described(model, build(cfg.model.get("adaptation"))),
        budget=budget.of(1) if isinstance(budget, InstructBudget) else budget,
        layout=layout_of(cfg, hardware.world_size),
        precision=cfg.trainer.precision,
        backend=hardware.kernel_backend(name, is_mamba2=isinstance(model, Mamba2Config)),
        chunk_size=backend.get("chunk_size", 64),
        ema=callbacks.get("ema") is not None,
        gradient_sums=objective.gradient_sums,
        segment_tokens=objective.segment_tokens,
        keep_last=checkpoint.get("keep_last", 0),
        keep_every_steps=checkpoint.get("keep_every_steps"),
        val_positions=val_positions(cfg),
        val_every_steps=cfg.trainer.get("val_check_interval"),
    )


def layout_of(cfg: DictConfig, world_size: int) -> Layout:
    """Return how the ranks share the model; without a strategy several of them hold copies."""
    node: Any = cfg.trainer.get("strategy")
    is_node = isinstance(node, DictConfig)
    name = str(node._target_ if is_node else node or "ddp")
    kind = "fsdp" if "fsdp" in name else "ddp"
    return Layout(
        strategy=kind if world_size > 1 else "single",
        activation_checkpointing=cfg.model.activation_checkpointing,
        sync_every_micro_batch=is_node and bool(node.get("sync_every_micro_batch", False)),
    )


def val_positions(cfg: DictConfig) -> int | None:
    """Bound the positions of one validation; None if the number of documents is not bounded."""
    documents = cfg.data.get("max_val_documents")
    sources: Any = cfg.data.get("sources")
    if documents is None or not sources:
        return None
    positions: int = len(sources) * documents * cfg.data.budget.seq_len
    return positions


def stores_bytes(cfg: DictConfig) -> int | None:
    """Return the bytes of the token stores; None unless all of them are there."""
    sources: Any = OmegaConf.to_container(cfg.data, resolve=True)
    pools = sources.get("sources") if isinstance(sources, Mapping) else None
    pools = pools if isinstance(pools, Mapping) else {}
    folders = [Path(str(name)) for pool in pools.values() for name in pool]
    if not folders or not all(folder.is_dir() for folder in folders):
        return None
    return sum(file.stat().st_size for folder in folders for file in folder.iterdir())


def overrides_of(run_dir: str | None) -> list[str]:
    """Return the overrides of a run that was made, or else of this command line."""
    if run_dir is None:
        return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    path = Path(run_dir) / ".hydra" / "overrides.yaml"
    if not path.is_file():
        return []
    check_yaml(path)
    found = OmegaConf.load(path)
    if not isinstance(found, ListConfig):
        raise DataError(f"{path}: must be a list of overrides")
    return [str(text) for text in found]


def submitted(overrides: Iterable[str]) -> list[str]:
    """Return the overrides that the training takes too."""
    keys = {text: text.lstrip("+~").split("=")[0].split(".")[0] for text in overrides}
    return [text for text, key in keys.items() if key not in _OWN_KEYS]


def settings_of_run(run_dir: Path, *, is_probed: bool) -> DictConfig:
    """Read the configuration that a run was made with, and check what the plan builds from it.

    Raises:
        DataError: The folder has none, or one of its keys is missing or wrong.
    """
    path = settings_path(run_dir)
    found = stored_config(run_dir)
    if found is None:
        raise DataError(f"{path}: no such file; run=... must name the folder of a run")
    plain: Any = plain_part(run_dir, found, _SHAPE)
    missing = [key for key in _NEEDED if select(plain, key) is None]
    if missing:
        raise DataError(
            f"{path}: is not the configuration of a training: {', '.join(missing)} missing"
        )
    built = (*_BUILT, *_PROBED) if is_probed else _BUILT
    checked_part(run_dir, found, built)
    check_shape(path, plain, _SHAPE)
    return found


def probe(cfg: DictConfig, hardware: Hardware, how: Probe, run: RunSettings) -> Rate:
    """Measure the training step on this machine.

    Raises:
        ConfigError: `hardware` is another machine, or the wrong number of processes was started.
    """
    if not hardware.is_here():
        raise ConfigError(
            f"probe=true measures this machine ({machine()['cpu']}, GPUs: "
            f"{', '.join(machine()['gpus']) or 'none'}), but hardware is "
            f"{hardware.devices_per_node} x {hardware.name or hardware.device}: a rate measured "
            "here says nothing about it. Run the probe there, or choose hardware=cpu or "
            "hardware=gpu_1"
        )
    check_launch(cfg.trainer.devices, cfg.trainer.num_nodes)
    if hardware.world_size != cfg.trainer.devices * cfg.trainer.num_nodes:
        raise ConfigError(
            f"trainer.devices x trainer.num_nodes is {cfg.trainer.devices} x "
            f"{cfg.trainer.num_nodes}, hardware has {hardware.world_size} devices: make them equal"
        )
    seed_everything(cfg.seed)
    timer = StepTimer()
    loader = how.loader(run.budget, run.model.vocab_size, hardware.world_size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You defined a `validation_step`")
        probing_trainer(cfg, how, timer).fit(probed_module(cfg), loader)
    where = f"this machine ({', '.join(machine()['gpus']) or machine()['cpu']})"
    tokens = how.step_tokens(run.budget, hardware.world_size)
    return measured_rate(tokens, timer.measured(how), where)


def probing_trainer(cfg: DictConfig, how: Probe, timer: StepTimer) -> Trainer:
    """Build the trainer of the run for some steps, with nothing that writes."""
    trainer: Trainer = build(
        cfg.trainer,
        max_steps=how.all_steps,
        logger=False,
        callbacks=[timer],
        enable_checkpointing=False,
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    return trainer


def probed_module(cfg: DictConfig) -> LanguageModelingModule:
    """Build the module of the run with fresh weights and one source."""
    model = build(cfg.model, checkpoint=None)
    return LanguageModelingModule(
        model,
        build(cfg.optimizer),
        build(cfg.schedule),
        {"random": 1.0},
        build(cfg.objective),
        tokens_per_step=cfg.tokens_per_step,
    )


if __name__ == "__main__":
    run_cli("plan", main)
