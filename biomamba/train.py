"""Train a Mamba2 language model: every stage is this program with another configuration.

    python -m biomamba.train +experiment=demo/adapt

Writes into the run folder: run.json (provenance, data fingerprint, final figures), TensorBoard
events, checkpoints/ (to resume) and model/ (to evaluate, adapt further or publish).
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    # The other imports take seconds, in which a signal would kill the process.
    signals.end_with_launcher()
    signals.listen()

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig, OmegaConf

from biomamba.config.check import build
from biomamba.config.cli import run_cli
from biomamba.config.safety import load_target, parameter_names
from biomamba.data.datamodule import TrainingData
from biomamba.model.isolation_probe import Isolation, probe_isolation
from biomamba.model.lora import ParameterCount
from biomamba.reporting.tables import exposure_table
from biomamba.runtime.files import remove_temporary_files
from biomamba.runtime.provenance import provenance
from biomamba.runtime.random_state import seed_everything
from biomamba.runtime.ranks import is_rank_zero
from biomamba.training.callbacks.checkpoint import Checkpoints
from biomamba.training.callbacks.preemption import Preemption
from biomamba.training.callbacks.tensorboard import RunPage
from biomamba.training.checkpoint_io import DurableCheckpointIO, remove_leftovers
from biomamba.training.finish import DueValidation, check_figures, finish
from biomamba.training.launch import (
    check_launch,
    check_precision,
    check_run_folder,
    check_tasks,
    check_trainer_keys,
    explained_faults,
    product_dtype_of,
    quiet_lightning,
)
from biomamba.training.lineage import keep_private, restrictions_of
from biomamba.training.module import LanguageModelingModule, check_vocabulary
from biomamba.training.resume import (
    RunContext,
    Start,
    find_start,
    is_finished,
    logger_options,
    run_settings,
    set_ledger_aside,
)
from biomamba.training.run import (
    RunRecord,
    StartRecord,
    put_before_now,
    run_lock,
)


def main(cfg: DictConfig) -> None:
    """Check the launch, and train while the run folder is held."""
    quiet_lightning()
    check_launch(cfg.trainer.devices, cfg.trainer.num_nodes)
    check_precision(cfg.trainer.precision)
    check_trainer_keys({str(key): value for key, value in cfg.trainer.items()})
    check_tasks(list(cfg.tasks or ()), list(cfg.data))
    check_run_folder(HydraConfig.get().overrides.task)
    seed_everything(cfg.seed)
    with run_lock(Path(cfg.paths.run_dir)), explained_faults():
        train(cfg)


def train(cfg: DictConfig) -> None:
    """Build the objects of the run from data to trainer, fit, and save the model."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    run_dir = Path(cfg.paths.run_dir)
    reasons = keep_private(config, run_dir)
    if node_of(cfg.callbacks, Preemption) is None:
        signals.restore_for_training()  # nothing would look at a signal that only sets a flag
    with signals.immediate():
        datamodule: TrainingData = build(cfg.data)
    settings = run_settings(config, datamodule)
    start = start_of(cfg, settings)
    if is_finished(start, datamodule.budget.num_steps, run_dir / "run.json"):
        if is_rank_zero():
            print(
                f"finished: {run_dir} has done its {start.step} steps; raise max_tokens to continue"
            )
        return
    datamodule.allow_change = bool(start.changes)
    run = RunContext(
        settings,
        start,
        lambda: restrictions_of(config, datamodule.description, start.checkpoint),
    )
    callbacks = build_callbacks(cfg.callbacks, run)
    announce(start, run_dir)
    with signals.immediate():
        datamodule.prepare_data()
        datamodule.setup("fit")
        module = build_module(cfg, datamodule)
    record = RunRecord(run_dir / "run.json", provenance(config), datamodule, start)
    trainer = build(
        cfg.trainer,
        max_steps=datamodule.budget.num_steps,
        default_root_dir=str(run_dir),
        logger=build_loggers(cfg.logger, start),
        callbacks=[*callbacks, DueValidation(), StartRecord(record), RunPage(config)],
        enable_checkpointing=any(isinstance(found, Checkpoints) for found in callbacks),
        # Lightning adds a bar of its own where there is none.
        enable_progress_bar=any(isinstance(found, ProgressBar) for found in callbacks),
        plugins=[DurableCheckpointIO()],
    )
    record.add_restrictions(reasons)
    record.add_data(datamodule.description)
    record.add_backend(probe(module, trainer, cfg.trainer.precision))
    parameters = ParameterCount.of(module.model)
    record.add_parameters(parameters)
    if is_rank_zero():
        print(f"model: {parameters.total:,} parameters, {parameters.trained:,} of them trained")
    if is_rank_zero() and datamodule.exposures:
        print(f"\nTraining split of each source:\n\n{exposure_table(datamodule.exposures)}\n")
    if start.checkpoint is None:
        figures = trainer.validate(module, datamodule, verbose=False)
        check_figures(figures, "the validation before the first step")
        record.add("before", figures)
    trainer.fit(module, datamodule, ckpt_path=start.checkpoint, weights_only=True)
    lines = finish(trainer, module, datamodule, record, run_dir)
    if is_rank_zero():
        print("\n".join([*lines, f"curves: tensorboard --logdir {run_dir}"]))


def start_of(cfg: DictConfig, settings: dict[str, Any]) -> Start:
    """Find where the run starts, and remove what a killed run left half written."""
    run_dir = Path(cfg.paths.run_dir)
    node = node_of(cfg.callbacks, Checkpoints)
    folder = Path(node.folder) if node else run_dir / "checkpoints"
    start = find_start(cfg.resume, folder, settings, allow_change=cfg.allow_change)
    if is_rank_zero():
        remove_leftovers(folder)
        remove_temporary_files(run_dir)
    return start


def announce(start: Start, run_dir: Path) -> None:
    """Say where the run continues, and make room for what it writes again."""
    if not is_rank_zero():
        return
    put_before_now(run_dir)
    if start.checkpoint is not None:
        changes = f", with other settings: {start.changes}" if start.changes else ""
        print(f"continuing after step {start.step} with {start.checkpoint}{changes}")
        set_ledger_aside(run_dir / "ledger", start)


def build_module(cfg: DictConfig, datamodule: TrainingData) -> LanguageModelingModule:
    """Build the model and what trains it."""
    model = build(cfg.model)
    check_vocabulary(model.config.vocab_size, datamodule.vocab_size)
    return LanguageModelingModule(
        model,
        build(cfg.optimizer),
        build(cfg.schedule, **length_of(cfg.schedule, datamodule)),
        datamodule.source_weights,
        build(cfg.objective),
        tokens_per_step=cfg.tokens_per_step,
        epoch_tokens={
            name: found.num_target_tokens for name, found in datamodule.exposures.items()
        },
    )


def length_of(schedule: DictConfig, datamodule: TrainingData) -> dict[str, int]:
    """Return the length of the run for a schedule that does not say it."""
    known = schedule.get("total_tokens")
    return {} if known is not None else {"total_tokens": datamodule.budget.max_tokens}


def probe(module: LanguageModelingModule, trainer: Trainer, precision: str) -> Isolation:
    """Prove, before anything is computed, that the backend keeps the documents of a row apart."""
    with signals.immediate():
        device = trainer.strategy.root_device
        return probe_isolation(module.model, device, product_dtype_of(precision))


def build_loggers(nodes: DictConfig | None, start: Start) -> list[Any]:
    """Build the loggers, so that a resumed run adds to the curves of the earlier one."""
    return [build(node, **logger_options(node._target_, start)) for node in active(nodes)]


def build_callbacks(nodes: DictConfig | None, run: RunContext) -> list[Any]:
    """Build the callbacks that are switched on; those that take the run get it."""
    return [
        build(node, **({"run": run} if "run" in parameter_names(node, "callbacks") else {}))
        for node in active(nodes)
    ]


def node_of(nodes: DictConfig | None, kind: type) -> DictConfig | None:
    """Return the node that builds an object of a class; None if there is none."""
    return next((n for n in active(nodes) if load_target(n._target_, "callbacks") is kind), None)


def active(nodes: DictConfig | None) -> list[DictConfig]:
    """Return the nodes of a group whose options are switched on; null switches one off."""
    return [node for node in (nodes or {}).values() if node is not None]


if __name__ == "__main__":
    run_cli("train", main)
