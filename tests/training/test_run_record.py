"""run.json and the model folder."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

from biomamba.data.datamodule import Exposure
from biomamba.model.backends.auto import AutoScan
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.checkpoint import load_pretrained
from biomamba.model.config import Mamba2Config
from biomamba.model.isolation_probe import probe_isolation
from biomamba.model.language_model import MambaLM
from biomamba.model.lora import ADAPTER, Adaptation, Lora, ParameterCount
from biomamba.runtime.signals import Interrupted
from biomamba.training.resume import Start
from biomamba.training.run import RunRecord, StartRecord, save_model


class StubData:
    fingerprint = "data"
    tokenizer_fingerprint = "tokens"
    exposures: ClassVar = {"web": Exposure(3, 30, 5, 1, 0.25, 8, 2.0, 30)}

    def save_tokenizer(self, path: Path) -> None:
        path.write_text("{}")


def make_record(path: Path, seed: int = 1, start: Start | None = None) -> RunRecord:
    data: Any = StubData()
    return RunRecord(path, {"argv": [f"seed={seed}"]}, data, start)


def test_the_record_is_there_from_the_start_and_grows(tmp_path: Path) -> None:
    path = tmp_path / "run" / "run.json"
    record = make_record(path)
    assert json.loads(path.read_text()) == {
        "provenance": {"argv": ["seed=1"]},
        "data_fingerprint": "data",
        "tokenizer_fingerprint": "tokens",
        "sources": {
            "web": {
                "num_documents": 3,
                "num_tokens": 30,
                "num_dropped_tokens": 5,
                "num_cut_documents": 1,
                "padding_ratio": 0.25,
                "num_rows_drawn": 8,
                "epochs": 2.0,
                "num_target_tokens": 30,
            }
        },
    }
    record.add("before", [{"val/loss": 2.0}, {"val/loss": 2.0, "val/web/nll": 1.0}])
    record.add("after", [{"val/loss": 1.0}])
    written = json.loads(path.read_text())
    assert written["before"] == {"val/loss": 2.0, "val/web/nll": 1.0}
    assert written["after"] == {"val/loss": 1.0}


@pytest.mark.parametrize("folder", ["run", "other"])
def test_a_run_that_goes_on_keeps_its_first_figures_and_names_its_resumes(
    tmp_path: Path, folder: str
) -> None:
    make_record(tmp_path / "run" / "run.json").add("before", [{"val/loss": 2.0}])
    path = tmp_path / folder / "run.json"
    for step in (4, 6):
        checkpoint = tmp_path / "run" / "checkpoints" / f"{step}.ckpt"
        record = make_record(path, step, Start(checkpoint, step, "seed is 1" if step == 4 else ""))
    record.add("after", [{"val/loss": 1.0}])
    written = json.loads(path.read_text())
    assert (written["before"], written["after"]) == ({"val/loss": 2.0}, {"val/loss": 1.0})
    assert written["provenance"] == {
        "argv": ["seed=1"],
        "resumes": [
            {"step": 4, "checkpoint": "4.ckpt", "changes": "seed is 1", "argv": ["seed=4"]},
            {"step": 6, "checkpoint": "6.ckpt", "changes": "", "argv": ["seed=6"]},
        ],
    }


def test_what_the_run_has_trained_on_is_added(tmp_path: Path) -> None:
    realised = {"web": {"tokens": 3, "share": 1.0, "epochs": None, "documents": 1}}
    record = make_record(tmp_path / "run.json")
    record.begin(0, 1)
    record.close([], realised, None)
    assert json.loads((tmp_path / "run.json").read_text())["realised"] == realised


def test_what_was_selected_and_what_the_data_tells_are_added(tmp_path: Path) -> None:
    record = make_record(tmp_path / "run.json")
    record.add_data({})
    assert "data" not in json.loads((tmp_path / "run.json").read_text())
    record.add_data({"steps": 3})
    record.begin(0, 1)
    record.close([], {}, {"step": 2, "figure": None})
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["data"] == {"steps": 3}
    assert found["selection"] == {"step": 2, "figure": None}


def test_the_backend_and_its_proof_are_added(tmp_path: Path) -> None:
    model = MambaLM(Mamba2Config(d_model=16, n_layer=1, vocab_size=8, headdim=8), AutoScan())
    isolation = probe_isolation(model, torch.device("cpu"), torch.float32)
    make_record(tmp_path / "run.json").add_backend(isolation)
    found = json.loads((tmp_path / "run.json").read_text())["backend"]

    assert found["backend"] == "chunked"
    assert found["reason"] == "the fused kernels need an NVIDIA GPU, not cpu"
    assert 0 <= found["output_error"] < 1e-5


def test_figures_that_json_has_no_number_for_are_written_as_words(tmp_path: Path) -> None:
    record = make_record(tmp_path / "run.json")
    record.add("before", [{"val/perplexity": math.inf, "val/nll": math.nan}])
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["before"] == {"val/perplexity": "inf", "val/nll": "nan"}


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    make_record(tmp_path / "run.json").add("after", [{"val/loss": 1.0}])
    assert not (tmp_path / "run.json").exists()


def test_a_saved_model_comes_back_with_its_tokenizer(tmp_path: Path) -> None:
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=32, d_state=4, headdim=8)
    model = MambaLM(config, ChunkedScan())
    data: Any = SimpleNamespace(save_tokenizer=StubData().save_tokenizer)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ".0badcafe.tmp.safetensors").write_text("half")  # of a killed run
    folder = save_model(model, data, tmp_path / "model")
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    loaded = load_pretrained(str(folder), ChunkedScan())
    for (name, found), wanted in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(found, wanted), name
    assert (folder / "tokenizer.json").is_file()


def test_adapters_are_counted_merged_and_written_apart(tmp_path: Path) -> None:
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=32, d_state=4, headdim=8)
    model = MambaLM(config, ChunkedScan())
    Adaptation(lora=Lora(rank=2, alpha=2.0, targets=["out_proj"])).apply(model)
    make_record(tmp_path / "run.json").add_parameters(ParameterCount.of(model))
    # out_proj is (16, 32): 2 x (16 + 32) numbers.
    assert json.loads((tmp_path / "run.json").read_text())["parameters"] == {
        "total": config.num_parameters() + 96,
        "trained": 96,
    }
    data: Any = SimpleNamespace(save_tokenizer=StubData().save_tokenizer)
    folder = save_model(model, data, tmp_path / "model")
    assert len(load_file(folder / ADAPTER)) == 2
    names = {name for name, _ in load_pretrained(str(folder), ChunkedScan()).named_parameters()}
    assert names == {name for name, _ in MambaLM(config, ChunkedScan()).named_parameters()}


def test_every_start_is_kept_with_the_reason_of_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    stopped: Any = SimpleNamespace(global_step=0, world_size=2)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    first = StartRecord(make_record(path))
    first.on_train_start(stopped, stopped)
    assert json.loads(path.read_text())["starts"][0]["end"] is None
    first.on_exception(stopped, stopped, Interrupted("SIGTERM: saved step 3"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    record = make_record(path)
    resumed: Any = SimpleNamespace(global_step=3, world_size=4)
    StartRecord(record).on_train_start(resumed, resumed)
    record.ensure_started(3, 4)
    record.close([{"val/loss": 1.0}], {}, None)
    starts = json.loads(path.read_text())["starts"]
    keys = ("step", "world_size", "slurm_job", "slurm_restarts", "end")
    assert [tuple(start[key] for key in keys) for start in starts] == [
        (0, 2, "7", 0, "interrupted: SIGTERM: saved step 3"),
        (3, 4, "7", 1, "finished"),
    ]
    assert all(start["time"] and start["host"] for start in starts)


def test_an_error_before_the_first_step_or_in_the_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    trainer: Any = SimpleNamespace(global_step=0, world_size=1)
    record = StartRecord(make_record(path))
    record.on_exception(trainer, trainer, ValueError("no start yet"))
    assert "starts" not in json.loads(path.read_text())
    record.on_train_start(trainer, trainer)
    record.on_exception(trainer, trainer, ValueError("nan"))
    assert json.loads(path.read_text())["starts"][0]["end"] == "ValueError: nan"
