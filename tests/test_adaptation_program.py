"""Training adapters by the program: what it writes, a stopped run, and bad settings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from safetensors.torch import load_file

from biomamba import prepare, train
from biomamba.config.compose import compose_config
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.random_state import seed_everything

pytestmark = [
    pytest.mark.slow,
    # The event files of the earlier starts stay.
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

NUM_STEPS = 6
SETTINGS = (
    f"max_tokens={NUM_STEPS * 512}",
    "tokens_per_step=512",
    "data.budget.seq_len=64",
    "data.budget.micro_batch_size=4",
    "data.max_val_documents=2",
    "data.verify=size",
    "trainer.val_check_interval=3",
    "callbacks.checkpoint.every_n_steps=1",
    "callbacks.progress=null",
    "callbacks.preemption=null",
    "model.config.d_model=32",
    "model.config.n_layer=2",
    "optimizer.lr=0.01",
)
ADAPT = ("+adaptation=lora", "model.adaptation.lora.rank=4", "callbacks=ema")
Run = Callable[..., Path]


class StopError(Exception):
    """What ends a run early."""


class StopAt(lightning.Callback):
    """Stops a run like a defect, in the middle of a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            raise StopError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare.main(compose_config("prepare", [f"paths.data_dir={folder}", "run_id=x"]))
    return folder


@pytest.fixture
def run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return run(name, *overrides, stop=None): train in a folder of this name and return it."""
    build_callbacks = train.build_callbacks

    def _run(name: str, *overrides: str, stop: int | None = None) -> Path:
        folder = tmp_path / name
        arguments = (f"paths.data_dir={data}", f"paths.run_dir={folder}", "run_id=x", *SETTINGS)
        cfg = compose_config("train", [*arguments, *overrides])

        def with_stop(nodes: Any, run: Any) -> list[Any]:
            return build_callbacks(nodes, run) + ([StopAt(stop)] if stop is not None else [])

        monkeypatch.setattr(train, "build_callbacks", with_stop)
        seed_everything(cfg.seed)
        if stop is None:
            train.train(cfg)
        else:
            with pytest.raises(StopError):
                train.train(cfg)
        return folder

    return _run


def test_adapters_are_trained_averaged_stopped_and_published(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    base = run("base")
    checkpoint = f"model.checkpoint={base / 'model'}"
    whole = run("whole", checkpoint, *ADAPT)
    run("stopped", checkpoint, *ADAPT, stop=4)
    stopped = run("stopped", checkpoint, *ADAPT)

    adapter = load_file(whole / "model" / "adapter.safetensors")
    trained = sum(tensor.numel() for tensor in adapter.values())
    record = json.loads((whole / "run.json").read_text())
    assert record["parameters"]["trained"] == trained
    assert f"{trained:,} of them trained" in capsys.readouterr().out
    first = load_file(base / "model" / "model.safetensors")
    for folder in ("model", "model_ema"):
        merged = load_file(whole / folder / "model.safetensors")
        changed = {name for name in first if not torch.equal(first[name], merged[name])}
        # Nothing but the targets has moved, and the model has no further names.
        assert changed == {n for n in first if n.endswith(("in_proj.weight", "out_proj.weight"))}
        assert merged.keys() == first.keys()
        for file in ("model.safetensors", "adapter.safetensors"):
            found, wanted = (load_file(each / folder / file) for each in (stopped, whole))
            assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    average = load_file(whole / "model_ema" / "adapter.safetensors")
    assert not any(torch.equal(average[name], tensor) for name, tensor in adapter.items())
    assert record["after"]["val/loss"] < record["before"]["val/loss"]


def test_a_target_that_matches_nothing_ends_the_program(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"'q_proj' of model.adaptation.lora names no matrix"):
        run("bad", "+adaptation=lora", "model.adaptation.lora.targets=[q_proj]")
    with pytest.raises(
        ConfigError, match=r"lora: rank must be a whole number of at least 1, found 0"
    ):
        run("bad", "+adaptation=lora", "model.adaptation.lora.rank=0")


def test_a_part_of_the_model_is_trained(run: Run) -> None:
    base = run("base")
    folder = run("parts", f"model.checkpoint={base / 'model'}", "+adaptation=parts")
    first, last = (load_file(each / "model" / "model.safetensors") for each in (base, folder))
    same = {name for name in first if torch.equal(first[name], last[name])}

    assert same == {"backbone.embedding.weight"}
    assert not (folder / "model" / "adapter.json").exists()
