"""Measure how time and memory grow with length, beside a Transformer of equal size.

    python -m biomamba.efficiency +experiment=bench/efficiency_train_small
    python -m biomamba.efficiency +experiment=bench/latency_clinical model=mamba2_1_3b
    python -m biomamba.report runs=[runs/bench/efficiency_train_small] output=runs/report

Writes efficiency.jsonl into paths.run_dir, a line per point and model, as soon as it is measured;
the same command continues where it ended. docs/efficiency.md explains what is measured.
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    signals.start_program()

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from biomamba.config.check import build
from biomamba.config.cli import run_cli
from biomamba.model.backends.auto import choice_of
from biomamba.model.config import Mamba1Config, MambaConfig
from biomamba.model.language_model import MambaLM
from biomamba.planning.hardware import main_memory_bytes
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.provenance import provenance
from biomamba.runtime.random_state import seed_everything
from biomamba.runtime.ranks import world_size
from biomamba.timing.candidates import (
    NAME,
    MambaSubject,
    TransformerShape,
    TransformerSubject,
    equal_shape,
    import_transformers,
)
from biomamba.timing.measurement import DeviceClock, memory_limit, memory_meter
from biomamba.timing.records import (
    EFFICIENCY_FILE,
    MIN_LENGTHS,
    TRAIN,
    EfficiencySettings,
    RecordFile,
    curves,
    fit_growth,
)
from biomamba.timing.session import Bench, MakeSubject, measure


def main(cfg: DictConfig) -> None:
    """Measure what is not measured yet."""
    if world_size() > 1:
        raise ConfigError(
            f"biomamba.efficiency measures one device, but {world_size()} processes were started: "
            "start one, without torchrun"
        )
    settings: EfficiencySettings = build(cfg.efficiency)
    device = settings.torch_device()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    origin = provenance(config)
    conditions = conditions_of(config, settings, device)
    path = Path(cfg.paths.run_dir) / EFFICIENCY_FILE
    file = RecordFile(path, conditions, origin, overwrite=cfg.overwrite)
    bench = Bench(
        settings=settings,
        device=device,
        clock=DeviceClock(device),
        memory=memory_meter(device),
        conditions=conditions,
        provenance=origin,
        say=partial(print, flush=True),
    )
    makers = makers_of(cfg, settings, device)
    seed_everything(cfg.seed)
    with memory_limit(limit_bytes(settings, device), device):
        measure(bench, makers, file)
    tell(file)


def conditions_of(
    config: Mapping[str, Any], settings: EfficiencySettings, device: torch.device
) -> dict[str, Any]:
    """Return what points must share, beside machine and versions, to be in one file."""
    found = settings.conditions() | {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "model": config["model"],
        "seed": config["seed"],
    }
    if config["transformer"]:
        found["transformers"] = import_transformers().__version__
    return found


def makers_of(
    cfg: DictConfig, settings: EfficiencySettings, device: torch.device
) -> dict[str, MakeSubject]:
    """Return what builds each model for a phase."""
    config: MambaConfig = build(cfg.model.config)
    makers: dict[str, MakeSubject] = {
        config.layer.lower(): lambda _: our_subject(cfg, settings, device)
    }
    if cfg.transformer:
        shape = equal_shape(config)
        print(
            f"{config.layer}: {config.num_parameters():,} parameters; Transformer: "
            f"{shape.num_parameters():,} in {shape.n_layer} blocks of {shape.d_model}, "
            f"{shape.d_ff} inside the MLP"
        )
        makers[NAME] = lambda phase: their_subject(shape, phase, settings, device)
    return makers


def our_subject(
    cfg: DictConfig, settings: EfficiencySettings, device: torch.device
) -> MambaSubject:
    """Build our model as the configuration describes it."""
    model: MambaLM = build(cfg.model).to(device)
    is_selective = isinstance(model.config, Mamba1Config)
    dtype = settings.product_dtype
    scan = choice_of(build(cfg.model.backend), device, dtype, is_selective=is_selective)
    return MambaSubject(model, dtype, settings.prefill_tokens, scan.backend)


def their_subject(
    shape: TransformerShape, phase: str, settings: EfficiencySettings, device: torch.device
) -> TransformerSubject:
    """Build the Transformer; where it does not train its weights are as narrow as its products."""
    longest = max(settings.lengths) + settings.decode_tokens
    dtype = torch.float32 if phase == TRAIN else settings.product_dtype
    return TransformerSubject.build(shape, longest, device, dtype)


def limit_bytes(settings: EfficiencySettings, device: torch.device) -> int:
    """Return where memory ends."""
    if settings.memory_gib is not None:
        return int(settings.memory_gib * 2**30)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return main_memory_bytes()


def tell(file: RecordFile) -> None:
    """Print the exponent of each curve, and where the figures are."""
    for curve in curves(file.records):
        if len(curve.lengths) < MIN_LENGTHS:
            continue
        growth = fit_growth(curve.lengths, curve.seconds)
        interval = "" if growth.low is None else f" [{growth.low:.2f}, {growth.high:.2f}]"
        print(
            f"{curve.phase} {curve.batch} x length, {curve.model}: time ~ "
            f"length^{growth.exponent:.2f}{interval}"
        )
    print(f"efficiency: {file.path}")


if __name__ == "__main__":
    run_cli("efficiency", main)
