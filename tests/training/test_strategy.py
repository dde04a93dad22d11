"""DDP(2) and FSDP2(2) against one process on the same rows, in two real processes over gloo."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import Strategy
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes
from torch.utils.data import DataLoader

from biomamba.data.batches import PIECE_DTYPE, Batch
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.checkpoint import build_model, load_pretrained, save_pretrained
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.lora import ADAPTER, Adaptation, Lora, save_adapter
from biomamba.runtime.errors import ConfigError
from biomamba.training.callbacks.checkpoint import Checkpoints
from biomamba.training.checkpoint_io import DurableCheckpointIO, checkpoint_name
from biomamba.training.launch import quiet_lightning
from biomamba.training.module import LanguageModelingModule, Objective
from biomamba.training.optimizer import AdamW, Constant
from biomamba.training.strategy import ddp, fsdp

VOCAB, LENGTH, ROWS, STEPS, HALF = 32, 12, 4, 10, 5
CONFIG = Mamba2Config(d_model=16, n_layer=2, vocab_size=VOCAB, d_state=4, headdim=8)
MAMBA1 = Mamba1Config(d_model=16, n_layer=2, vocab_size=VOCAB, d_state=4, static=["C"])
# Sums over the processes are made in another order: a few units of the last place per step. With
# eps = 1e-3 Adam does not blow up the rounding of gradients near zero.
SETTINGS = AdamW(lr=1e-3, weight_decay=0.1, eps=1e-3)
FP32_TOLERANCE = 1e-6


def make_rows(step: int) -> Batch:
    """Four rows of two documents; row r scores 12, 8, 4 and 0 targets: the last is padding."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), generator=generator)
    targets = tokens[:, 1:].clone()
    for row in range(ROWS):
        targets[row, LENGTH - 4 * row :] = -100
    seq_idx = (torch.arange(LENGTH) >= LENGTH // 2).int().expand(ROWS, LENGTH)
    pieces = [(row, row % 2, row, 0, LENGTH // 2) for row in range(ROWS)]
    return Batch(
        input_ids=tokens[:, :-1],
        targets=targets,
        seq_idx=seq_idx.contiguous(),
        source=torch.arange(ROWS) % 2,
        num_bytes=torch.full((ROWS,), 5),
        row_ids=torch.arange(ROWS),
        pieces=np.array(pieces, dtype=PIECE_DTYPE),
    )


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    """Return some rows as a batch."""
    fields = ("input_ids", "targets", "seq_idx", "source", "num_bytes", "row_ids")
    row = batch.pieces["row"]
    return Batch(
        **{name: getattr(batch, name)[start:stop] for name in fields},
        pieces=batch.pieces[(row >= start) & (row < stop)],
    )


class Steps(torch.utils.data.Dataset[list[Batch]]):
    """The micro-batches of a step on one of several processes."""

    def __init__(self, rank: int, world_size: int, rows_per_micro_batch: int) -> None:
        self._own = range(rank * ROWS // world_size, (rank + 1) * ROWS // world_size)
        self._size = rows_per_micro_batch

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, step: int) -> list[Batch]:
        starts = range(self._own.start, self._own.stop, self._size)
        return [rows_of(make_rows(step), s, s + self._size) for s in starts]


class From(torch.utils.data.Sampler[int]):
    """The steps from one on; the length is that of the run, as a resume needs it."""

    def __init__(self, start: int) -> None:
        self._start = start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._start, STEPS))

    def __len__(self) -> int:
        return STEPS


class Loader(DataLoader[list[Batch]]):
    """Knows where to continue by itself, and says so."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Probe(lightning.Callback):
    """Notes the loss and the gradient norm of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.is_sharded_after_validation = False

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        self.norms.append(float(trainer.callback_metrics["train/grad_norm"]))

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any
    ) -> None:
        self.is_sharded_after_validation = all(
            isinstance(parameter, DTensor) for parameter in pl_module.parameters()
        )


class WatchedSSD(ChunkedScan):
    """Notes the dtypes that the scan gets."""

    def __init__(self) -> None:
        super().__init__(chunk_size=4)
        self.dtypes: dict[str, str] = {}

    def scan(self, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        names = ("x", "dt", "A", "B", "C")
        self.dtypes = {n: str(t.dtype) for n, t in zip(names, tensors, strict=True)}
        return super().scan(*tensors, **options)


@dataclass
class Run:
    """One fit; `result` of rank zero holds whole tensors."""

    folder: Path
    strategy: Strategy | str = "auto"
    world_size: int = 1
    precision: Any = "32-true"
    resume: Path | None = None
    rows_per_micro_batch: int = 1
    activation_checkpointing: bool = False
    scale: float | None = None
    max_grad_norm: float = 0.1  # less than the norm of every step: all are clipped
    callbacks: Sequence[lightning.Callback] = ()
    backend: WatchedSSD = field(default_factory=WatchedSSD)
    adaptation: Adaptation | None = None
    config: MambaConfig = CONFIG

    def fit(self) -> tuple[lightning.Trainer, LanguageModelingModule, Probe]:
        torch.manual_seed(0)
        model = build_model(
            self.config,
            self.backend,
            activation_checkpointing=self.activation_checkpointing,
            adaptation=self.adaptation,
        )
        if self.scale is not None:
            torch.nn.init.constant_(model.backbone.norm_f.weight, 32.0)  # gradients of about 8
        module = LanguageModelingModule(
            model,
            SETTINGS,
            Constant(total_tokens=1_000),
            {"pubmed": 0.75, "web": 0.25},
            Objective(max_grad_norm=self.max_grad_norm),
            tokens_per_step=ROWS * LENGTH,
        )
        probe = Probe()
        trainer = self._trainer(probe)
        start = 0 if self.resume is None else HALF
        rank = int(os.environ.get("RANK", "0"))
        steps = Steps(rank, self.world_size, self.rows_per_micro_batch)
        loader = Loader(steps, batch_size=None, sampler=From(start))
        held_out: Any = steps[0]
        val = [DataLoader(held_out, batch_size=None) for _ in range(2)]
        trainer.fit(module, loader, val, ckpt_path=self.resume, weights_only=True)
        return trainer, module, probe

    def _trainer(self, probe: Probe) -> lightning.Trainer:
        plugins: list[Any] = [DurableCheckpointIO()]
        settings: dict[str, Any] = {"precision": self.precision}
        if self.scale is not None:
            # fp16 needs a GPU: the scaler of 16-mixed around products in bf16.
            scaler = torch.amp.GradScaler("cpu", init_scale=self.scale, growth_interval=3)
            plugin = MixedPrecision("16-mixed", "cpu", scaler)
            plugin.precision = "bf16-mixed"
            plugins, settings = [*plugins, plugin], {}
        return lightning.Trainer(
            default_root_dir=self.folder,
            accelerator="cpu",
            devices=self.world_size,
            strategy=self.strategy,
            max_epochs=1,
            max_steps=STEPS,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            val_check_interval=3,
            check_val_every_n_epoch=None,
            log_every_n_steps=1,
            callbacks=[*self.callbacks, probe, Checkpoints(str(self.folder), every_n_steps=HALF)],
            plugins=plugins,
            **settings,
        )

    def run(self) -> dict[str, Any]:
        """Fit, and save what a test compares."""
        trainer, module, probe = self.fit()
        save_pretrained(module.model, self.folder / "model")
        save_adapter(module.model, self.folder / "model")
        result = {
            "losses": probe.losses,
            "norms": probe.norms,
            "skipped": module.guard.skipped_steps,
            "global_step": trainer.global_step,
            "is_sharded_after_validation": probe.is_sharded_after_validation,
            "dtypes": self.backend.dtypes,
            "sharded": [
                (tuple(p.shape), tuple(p.to_local().shape))
                for p in module.model.parameters()
                if isinstance(p, DTensor)
            ],
            "tied": module.model.head_weight is module.model.backbone.embedding.weight,
            "val": float(trainer.callback_metrics["val/loss"]),
        }
        if trainer.is_global_zero:
            torch.save(result, self.folder / "result.pt")
        return result


def in_two_processes(worker: Callable[..., None], *arguments: Any) -> None:
    """Run worker(rank, ...) in two processes that Lightning takes for launched ones."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = start_processes(  # type: ignore[no-untyped-call]
        launched, (port, worker, arguments), nprocs=2, join=False, start_method="fork"
    )
    assert context is not None
    while not context.join():
        pass


def launched(rank: int, port: int, worker: Callable[..., None], arguments: Sequence[Any]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    quiet_lightning()
    worker(rank, *arguments)


def fit_all(rank: int, folder: Path) -> None:
    """All runs of two processes, with one start of them."""
    pair: dict[str, Any] = {"world_size": 2}
    name = checkpoint_name(HALF)
    runs = {
        "ddp": pair | {"strategy": ddp()},
        "fsdp": pair | {"strategy": fsdp()},
        "fsdp_resumed": pair | {"strategy": fsdp(), "resume": folder / "fsdp" / name},
        "fsdp_from_one": pair | {"strategy": fsdp(), "resume": folder / "one" / name},
        "ddp_from_fsdp": pair | {"strategy": ddp(), "resume": folder / "fsdp" / name},
        "fsdp_forgetful": pair | {"strategy": fsdp(), "activation_checkpointing": True},
        "fsdp_synced": pair | {"strategy": fsdp(sync_every_micro_batch=True)},
        "fsdp_bf16": pair | {"strategy": fsdp(), "precision": "bf16-mixed"},
        "ddp_bf16": pair | {"strategy": ddp(), "precision": "bf16-mixed"},
        "mamba1_ddp": pair | {"strategy": ddp(), "config": MAMBA1},
        "mamba1_fsdp": pair | {"strategy": fsdp(), "config": MAMBA1},
        "fsdp_scaled": pair | {"strategy": fsdp(), "scale": 2.0**127},
        "fsdp_scaled_resumed": pair
        | {"strategy": fsdp(), "scale": 1.0, "resume": folder / "fsdp_scaled" / name},
    }
    for found, settings in runs.items():
        Run(folder / found, **settings).run()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, by name."""
    folder = tmp_path_factory.mktemp("runs")
    Run(folder / "one").run()
    Run(folder / "one_bf16", precision="bf16-mixed").run()
    Run(folder / "mamba1", config=MAMBA1).run()
    in_two_processes(fit_all, folder)
    Run(folder / "one_from_fsdp", resume=folder / "fsdp" / checkpoint_name(HALF)).run()
    return folder


def weights(run: Path) -> dict[str, Tensor]:
    """The saved model, through the loader that evaluation uses."""
    return load_pretrained(run / "model", ChunkedScan(chunk_size=4)).state_dict()


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "result.pt", weights_only=True)
    return found


def optimizer_state(run: Path) -> dict[str, Any]:
    """Weights and moments of the last checkpoint, by the place of the parameter."""
    loaded = torch.load(run / checkpoint_name(STEPS), weights_only=True)
    found: dict[str, Any] = loaded["optimizer_states"][0]
    return found


def assert_same(found: Path, expected: Path, tolerance: float) -> None:
    """Compare weights, moments, losses, norms and the validation loss."""
    close: Any = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(weights(found), weights(expected), **close)
    one, other = optimizer_state(found), optimizer_state(expected)
    torch.testing.assert_close(one["state"], other["state"], **close)
    assert one["param_groups"] == other["param_groups"]
    for key in ("losses", "norms", "val"):
        ours, theirs = torch.tensor(result(found)[key]), torch.tensor(result(expected)[key])
        torch.testing.assert_close(ours, theirs[-len(ours) :] if ours.ndim else theirs, **close)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp", "fsdp_synced", "fsdp_forgetful"])
def test_two_processes_equal_one(runs: Path, name: str) -> None:
    assert min(result(runs / "one")["norms"]) > 1.0  # every step was clipped to 0.1
    assert_same(runs / name, runs / "one", FP32_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mamba1_ddp", "mamba1_fsdp"])
def test_two_processes_equal_one_for_mamba1(runs: Path, name: str) -> None:
    assert_same(runs / name, runs / "mamba1", FP32_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp_bf16", "fsdp_bf16"])
def test_two_processes_equal_one_in_bf16(runs: Path, name: str) -> None:
    # Products of the same rows round alike; only the float32 sums of their gradients differ.
    assert_same(runs / name, runs / "one_bf16", 1e-5)
    assert not torch.equal(
        weights(runs / name)["backbone.embedding.weight"],
        weights(runs / "one")["backbone.embedding.weight"],
    )


@pytest.mark.slow
def test_the_scan_of_a_sharded_model_gets_decays_in_float32(runs: Path) -> None:
    found = result(runs / "fsdp_bf16")["dtypes"]
    half, full = "torch.bfloat16", "torch.float32"
    assert found == {"x": half, "dt": full, "A": full, "B": half, "C": half}
    dtypes = {
        value.dtype
        for state in optimizer_state(runs / "fsdp_bf16")["state"].values()
        for value in state.values()
    }
    assert dtypes == {torch.float32}


@pytest.mark.slow
def test_every_parameter_is_sharded_and_the_head_stays_tied(runs: Path) -> None:
    found = result(runs / "fsdp")
    whole = {name: tuple(t.shape) for name, t in weights(runs / "one").items()}
    assert [shape for shape, _ in found["sharded"]] == list(whole.values())
    assert all(local == (shape[0] // 2, *shape[1:]) for shape, local in found["sharded"])
    assert found["tied"]
    # An average of the weights takes their place for a validation, so none may stay gathered.
    assert found["is_sharded_after_validation"]


@pytest.mark.slow
def test_a_resumed_sharded_run_is_the_run_itself(runs: Path) -> None:
    assert_same(runs / "fsdp_resumed", runs / "fsdp", 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp_from_one", "one_from_fsdp", "ddp_from_fsdp"])
def test_a_run_goes_on_under_another_strategy(runs: Path, name: str) -> None:
    assert_same(runs / name, runs / "one", FP32_TOLERANCE)


@pytest.mark.slow
def test_a_loss_scaler_skips_the_same_steps_on_all_shards(runs: Path) -> None:
    found = result(runs / "fsdp_scaled")
    assert 0 < found["skipped"] < STEPS
    assert found["global_step"] == STEPS
    assert all(torch.isfinite(tensor).all() for tensor in weights(runs / "fsdp_scaled").values())


# The tied embedding has an adapter too: the loss reads its weight outside every module.
ADAPTED = Adaptation(
    lora=Lora(rank=2, alpha=8.0, targets=["in_proj", "out_proj", "embedding"]),
    train=["*.A_log"],
)


def fit_adapted(rank: int, folder: Path) -> None:
    pair: dict[str, Any] = {"world_size": 2, "adaptation": ADAPTED}
    name = checkpoint_name(HALF)
    Run(folder / "ddp", strategy=ddp(), **pair).run()
    Run(folder / "fsdp", strategy=fsdp(), activation_checkpointing=True, **pair).run()
    resumed = {"strategy": fsdp(), "resume": folder / "fsdp" / name}
    Run(folder / "fsdp_resumed", **resumed, **pair).run()


@pytest.fixture(scope="module")
def adapted_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs with adapters, by name."""
    folder = tmp_path_factory.mktemp("adapted_runs")
    Run(folder / "one", adaptation=ADAPTED).run()
    in_two_processes(fit_adapted, folder)
    resume = folder / "one" / checkpoint_name(HALF)
    Run(folder / "one_resumed", adaptation=ADAPTED, resume=resume).run()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp", "fsdp_resumed"])
def test_adapters_of_two_processes_equal_those_of_one(adapted_runs: Path, name: str) -> None:
    assert_same(adapted_runs / name, adapted_runs / "one", FP32_TOLERANCE)
    found, expected = (load_file(adapted_runs / n / "model" / ADAPTER) for n in (name, "one"))
    torch.testing.assert_close(found, expected, rtol=FP32_TOLERANCE, atol=FP32_TOLERANCE)
    # Two matrices of each of two modules in two layers and of the embedding, and two A_log; the
    # optimizer holds nothing else.
    assert len(found) == len(optimizer_state(adapted_runs / name)["state"]) == 12
    assert all(tensor.any() for tensor in found.values())


@pytest.mark.slow
def test_a_resumed_run_with_adapters_is_the_run_itself(adapted_runs: Path) -> None:
    assert_same(adapted_runs / "one_resumed", adapted_runs / "one", 0.0)


@pytest.mark.slow
def test_a_resumed_loss_scaler_is_that_of_the_checkpoint(runs: Path) -> None:
    assert_same(runs / "fsdp_scaled_resumed", runs / "fsdp_scaled", 0.0)
    last, resumed = (
        torch.load(runs / name / checkpoint_name(STEPS), weights_only=True)["MixedPrecision"]
        for name in ("fsdp_scaled", "fsdp_scaled_resumed")
    )
    assert resumed == last
    assert resumed["scale"] != 1.0  # with which it was built


def scale_down(rank: int, folder: Path) -> None:
    """Only the second process has a gradient that is not finite."""
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    parameter = torch.nn.Parameter(scatter_rows(torch.ones(4, 2), mesh))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scaler.scale(torch.ones(()))
    local = torch.full((2, 2), float("inf") if rank == 1 else 1.0)
    parameter.grad = DTensor.from_local(local, mesh, [Shard(0)])
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4.0
    assert torch.equal(parameter.data.to_local(), torch.ones(2, 2))  # type: ignore[attr-defined]


def scatter_rows(whole: Tensor, mesh: DeviceMesh) -> DTensor:
    return distribute_tensor(whole, mesh, [Shard(0)])


@pytest.mark.slow
def test_an_overflow_in_one_shard_skips_the_step_of_all(tmp_path: Path) -> None:
    in_two_processes(scale_down, tmp_path)


class HangAtStep(lightning.Callback):
    def on_train_batch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        if trainer.global_step == 2 and trainer.global_rank == 1:
            time.sleep(600)


def fit_beside_a_hung_process(rank: int, folder: Path) -> None:
    run = Run(folder, fsdp(timeout_seconds=5), world_size=2)
    run.callbacks = [HangAtStep()]
    run.run()


@pytest.mark.slow
def test_a_hung_process_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException, match=r"(?i)timed out"):
        in_two_processes(fit_beside_a_hung_process, tmp_path)


@pytest.mark.parametrize("build", [ddp, fsdp])
def test_a_timeout_is_given_in_seconds(build: Callable[..., Any]) -> None:
    assert build(timeout_seconds=90)._timeout == timedelta(seconds=90)
    with pytest.raises(
        ConfigError, match=r"timeout_seconds must be a finite number above 0 .*, found 0"
    ):
        build(timeout_seconds=0)
