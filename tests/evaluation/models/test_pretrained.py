"""Checkpoints of transformers: found, recognized, loaded without running anything of theirs."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from biomamba.evaluation.models.loading import Pretrained, import_transformers
from biomamba.model.formats import detect as hub
from biomamba.runtime.errors import CheckpointError, MissingDependencyError

CLASS = "AutoModelForCausalLM"


@pytest.fixture
def folder(save_model: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(save_model("gpt2"), tmp_path / "model"))


def describe(folder: Path, **config: Any) -> Pretrained:
    (folder / "config.json").write_text(json.dumps(config))
    return Pretrained.find(str(folder))


@pytest.mark.parametrize(
    ("name", "is_encoder_decoder", "kind"),
    [
        ("GPT2LMHeadModel", False, "causal"),
        ("BioGptForCausalLM", False, "causal"),
        ("LlamaForCausalLM", False, "causal"),
        ("MambaForCausalLM", False, "causal"),
        ("T5ForConditionalGeneration", True, "sequence_to_sequence"),
        ("BertForQuestionAnswering", False, "extractive"),
        ("BartForQuestionAnswering", True, "extractive"),
    ],
)
def test_the_kind_is_told_from_the_architecture(
    name: str, is_encoder_decoder: bool, kind: str, tmp_path: Path
) -> None:
    found = describe(tmp_path, architectures=[name], is_encoder_decoder=is_encoder_decoder)

    assert found.kind == kind


@pytest.mark.parametrize("names", [["BertForMaskedLM"], ["ViTForImageClassification"], None])
def test_a_model_that_cannot_answer_is_refused(names: list[str] | None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json names .* allowed are models"):
        _ = describe(tmp_path, architectures=names).kind


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        Pretrained.find(str(tmp_path))


def test_weights_that_would_be_drawn_at_random_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, path, {"format": "pt"})

    with pytest.raises(CheckpointError, match=r"lack transformer\.h\.1\.mlp\.c_fc\.weight, which"):
        Pretrained.find(str(folder)).load_model(CLASS, "cpu")


def test_a_file_of_tensors_of_torch_is_read(folder: Path) -> None:
    expected = Pretrained.find(str(folder)).load_model(CLASS, "cpu").state_dict()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")

    found = Pretrained.find(str(folder)).load_model(CLASS, "cpu").state_dict()

    assert all(torch.equal(found[name], expected[name]) for name in expected)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_a_file_that_would_run_code_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Payload(tmp_path / "ran")}))

    with pytest.raises(CheckpointError, match="files that hold more than tensors are not read"):
        Pretrained.find(str(folder)).load_model(CLASS, "cpu")
    assert not (tmp_path / "ran").exists()


def test_code_of_a_repository_is_never_run(folder: Path, tmp_path: Path) -> None:
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    found = describe(folder, **config | {"model_type": "own", "auto_map": own})

    with pytest.raises(CheckpointError, match="Code that a repository brings along is never run"):
        found.load_model(CLASS, "cpu")
    assert not (tmp_path / "ran").exists()


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()

    with pytest.raises(CheckpointError, match="no tokenizer is beside the weights"):
        Pretrained.find(str(folder)).load_tokenizer()
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot load its tokenizer"):
        Pretrained.find(str(folder)).load_tokenizer()


def test_weights_are_wanted(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    with pytest.raises(CheckpointError, match="holds no weights"):
        Pretrained.find(str(folder)).load_model(CLASS, "cpu")


def test_weights_are_wide_whatever_the_file_holds(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({k: v.bfloat16() for k, v in load_file(path).items()}, path, {"format": "pt"})

    model = Pretrained.find(str(folder)).load_model(CLASS, "cpu")

    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


def test_the_files_of_every_tokenizer_are_fetched_and_no_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(_: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert revision == "main"
        asked.extend(allow_patterns)
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)

    assert Pretrained.find("owner/name@main").folder == folder
    assert {"vocab.txt", "merges.txt", "spiece.model", "tokenizer.model"} <= set(asked)
    assert not [name for name in asked if name.endswith(".py") or "*" in name]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)

    with pytest.raises(MissingDependencyError, match=r"pip install 'biomamba\[baselines\]'"):
        import_transformers()
