"""Train a Mamba2 language model: every stage is this program with another configuration.

    python -m biomamba.train +experiment=demo/adapt

Writes into the run folder: run.json (provenance, data fingerprint, final figures), TensorBoard
events, checkpoints/ (to resume) and model/ (to evaluate, adapt further or publish).
"""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from biomamba.config.build import build
from biomamba.config.cli import run_cli
from biomamba.data.training_data import TrainingData
from biomamba.reporting.tables import exposure_table
from biomamba.runtime.provenance import provenance
from biomamba.runtime.ranks import is_rank_zero
from biomamba.runtime.seeding import seed_everything
from biomamba.training.launch import (
    check_launch,
    check_precision,
    check_run_folder,
    check_trainer_keys,
    quiet_lightning,
)
from biomamba.training.module import LanguageModelingModule, check_vocabulary
from biomamba.training.run_record import RunRecord, final_figures, save_model


def main(cfg: DictConfig) -> None:
    """Build the objects of the run from data to trainer, fit, and save the model."""
    quiet_lightning()
    check_launch(cfg.trainer.devices, cfg.trainer.num_nodes)
    check_precision(cfg.trainer.precision)
    check_trainer_keys(str(key) for key in cfg.trainer)
    check_run_folder(HydraConfig.get().overrides.task)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    seed_everything(cfg.seed)
    run_dir = Path(cfg.paths.run_dir)
    datamodule: TrainingData = build(cfg.data)
    datamodule.prepare_data()
    datamodule.setup("fit")
    model = build(cfg.model)
    check_vocabulary(model.config.vocab_size, datamodule.vocab_size)
    module = LanguageModelingModule(
        model,
        build(cfg.optimizer),
        build(cfg.schedule),
        datamodule.source_weights,
        build(cfg.objective),
        tokens_per_step=cfg.tokens_per_step,
        epoch_tokens={name: found.num_tokens for name, found in datamodule.exposures.items()},
    )
    trainer = build(
        cfg.trainer,
        max_steps=datamodule.budget.num_steps,
        default_root_dir=str(run_dir),
        logger=build_all(cfg.logger),
        callbacks=build_all(cfg.callbacks),
    )
    if is_rank_zero() and datamodule.exposures:
        print(f"\nTraining split of each source:\n\n{exposure_table(datamodule.exposures)}\n")
    record = RunRecord(run_dir / "run.json", provenance(config), datamodule)
    if cfg.resume is None:
        record.add("before", trainer.validate(module, datamodule, verbose=False))
    trainer.fit(module, datamodule, ckpt_path=cfg.resume, weights_only=True)
    record.add_realised(module.seen.realised())
    record.add("after", final_figures(trainer, module, datamodule))
    if is_rank_zero():
        folder = save_model(model, datamodule, run_dir / "model")
        print(f"model: {folder}\ncurves: tensorboard --logdir {run_dir}")


def build_all(nodes: DictConfig | None) -> list[Any]:
    """Build the nodes of a group whose options are switched on; null switches one off."""
    return [build(node) for node in (nodes or {}).values() if node is not None]


if __name__ == "__main__":
    run_cli("train", main)
