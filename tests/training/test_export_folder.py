"""An exported folder: bit for bit the source, whole or absent, and read by transformers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.data.tokenizer import Tokenizer
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.checkpoint import load_pretrained, open_checkpoint, save_pretrained
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.formats import tensors as tensor_writer
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import CheckpointError, ConfigError
from biomamba.training import export as export_folder
from biomamba.training.export import ExportFormat, ExportSource, check_output, export, find_source

TOKENIZER = Tokenizer.byte_tokenizer()
CONFIGS: dict[str, MambaConfig] = {
    "Mamba1": Mamba1Config(d_model=24, n_layer=2, vocab_size=257, d_state=4),
    "Mamba2": Mamba2Config(
        d_model=24, n_layer=2, vocab_size=257, d_state=8, headdim=8, ngroups=2, norm_eps=1e-4
    ),
    "Mamba2-untied": Mamba2Config(
        d_model=24, n_layer=2, vocab_size=257, d_state=8, headdim=8, tie_embeddings=False
    ),
}
LAYERS = tuple(CONFIGS)
Start = Callable[..., ExportSource]


def make_model(name: str) -> MambaLM:
    """Weights large enough that every path matters to the logits."""
    torch.manual_seed(0)
    model = MambaLM(CONFIGS[name], ReferenceScan())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Return start(name): a model folder as the source of an export."""

    def _start(name: str = "Mamba2") -> ExportSource:
        save_pretrained(make_model(name), tmp_path / "source")
        return find_source(str(tmp_path / "source"), "model")

    return _start


@torch.no_grad()
def greedy(model: MambaLM, ids: list[int], max_new_tokens: int) -> list[int]:
    """Continue ids with the most likely ones up to the end of the document."""
    for _ in range(max_new_tokens):
        logits = model(torch.tensor([ids]))[0, -1, : model.config.vocab_size]
        ids = [*ids, int(logits.argmax())]
        if ids[-1] == TOKENIZER.eod_id:
            break
    return ids


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return dict(open_checkpoint(folder).weights())


@pytest.mark.parametrize("container", ["safetensors", "bin"])
@pytest.mark.parametrize("name", LAYERS)
def test_weights_come_back_bit_for_bit_from_every_layout(
    tmp_path: Path, start: Start, name: str, container: str
) -> None:
    source, folder = start(name), tmp_path / "source"
    for step, layout in enumerate(["transformers", "state_spaces", "transformers"]):
        source = find_source(str(folder), "model")
        folder = tmp_path / f"{step}"
        form = ExportFormat(name=layout, container=container, max_shard_bytes=3000)
        export(source, form, folder, TOKENIZER, {})
        assert open_checkpoint(folder).layout.name == layout
    expected, found = tensors_of(tmp_path / "source"), tensors_of(folder)

    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert open_checkpoint(folder).config == CONFIGS[name]


@pytest.mark.parametrize("name", LAYERS)
def test_transformers_computes_the_same(tmp_path: Path, start: Start, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    export(start(name), ExportFormat(name="transformers"), tmp_path / "out", TOKENIZER, {})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = load_pretrained(tmp_path / "out", ReferenceScan())
    exact = load_pretrained(tmp_path / "out", ReferenceScan()).double()
    ids = torch.tensor([[0, *TOKENIZER.encode("A patient came with fever.")]])
    assert tokenizer("A patient came with fever.")["input_ids"] == ids[0, 1:].tolist()
    with torch.no_grad():
        expected = theirs(ids, labels=ids)
        logits, truth = ours(ids), exact(ids)

    # Both round the same computation to float32, each in its own order: neither may be further
    # from float64 than some 100 roundings (2 ** -24) of the largest logit.
    tolerance = 100 * 2**-24 * truth.abs().max()
    assert (expected.logits - truth).abs().max() < tolerance
    assert (logits - truth).abs().max() < tolerance
    loss = F.cross_entropy(truth[0, :-1], ids[0, 1:])
    assert (expected.loss - loss).abs() < tolerance
    continued = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
    )
    assert continued.tolist() == [greedy(ours, ids[0].tolist(), 12)]


@pytest.mark.parametrize("name", ["Mamba1", "Mamba2"])
def test_what_transformers_writes_is_read_bit_for_bit(
    tmp_path: Path, start: Start, name: str
) -> None:
    transformers = pytest.importorskip("transformers")
    export(start(name), ExportFormat(name="transformers"), tmp_path / "out", None, {})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    expected, found = tensors_of(tmp_path / "source"), tensors_of(tmp_path / "theirs")

    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert open_checkpoint(tmp_path / "theirs").config == CONFIGS[name]


def test_record_names_source_format_rounding_and_every_file(tmp_path: Path, start: Start) -> None:
    form = ExportFormat(name="state_spaces", dtype="bfloat16")
    written = export(start(), form, tmp_path / "out", TOKENIZER, {"git": None})
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    files = {path.name for path in (tmp_path / "out").iterdir()}

    assert record == written
    assert record["files"].keys() == files - {"export.json"}
    assert files == {"config.json", "export.json", "model.safetensors", "tokenizer.json"}
    assert record["source"]["path"] == str(tmp_path / "source")
    assert record["format"] == {
        "name": "state_spaces",
        "dtype": "bfloat16",
        "container": "safetensors",
    }
    assert 0 < max(record["rounded"].values()) <= 2**-8


def test_ids_are_null_without_a_tokenizer(tmp_path: Path, start: Start) -> None:
    export(start(), ExportFormat(name="transformers"), tmp_path / "out", None, {})
    raw = json.loads((tmp_path / "out" / "config.json").read_text())

    assert raw["eos_token_id"] is None
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_files_of_a_foreign_tokenizer_and_its_ids_are_kept(tmp_path: Path, start: Start) -> None:
    start()
    export(
        find_source(str(tmp_path / "source"), "model"),
        ExportFormat(name="transformers"),
        tmp_path / "foreign",
        None,
        {},
    )
    raw = json.loads((tmp_path / "foreign" / "config.json").read_text())
    (tmp_path / "foreign" / "config.json").write_text(json.dumps(raw | {"eos_token_id": 2}))
    (tmp_path / "foreign" / "tokenizer.json").write_text("as it was")
    source = find_source(str(tmp_path / "foreign"), "model")
    export(source, ExportFormat(name="transformers"), tmp_path / "out", None, {})

    assert (tmp_path / "out" / "tokenizer.json").read_text() == "as it was"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 2


def test_tokenizer_of_another_model_is_refused(tmp_path: Path, start: Start) -> None:
    larger = Tokenizer.train_bpe(["abcdefgh" * 20, "hgfedcba" * 20], 270)
    source = start()
    with pytest.raises(CheckpointError, match="270 ids, the model 257"):
        export(source, ExportFormat(name="transformers"), tmp_path / "out", larger, {})
    other = ExportSource(
        source.weights, source.config, {"path": "x.ckpt"}, tmp_path, tokenizer_fingerprint="ab"
    )
    with pytest.raises(CheckpointError, match=r"fingerprint .*, but x.ckpt was trained with ab"):
        export(other, ExportFormat(name="transformers"), tmp_path / "out", TOKENIZER, {})

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", ["transformers", "state_spaces"])
def test_failed_export_leaves_nothing_and_what_was_there(
    tmp_path: Path, start: Start, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, form = start(), ExportFormat(name=layout)
    export(source, form, tmp_path / "out", TOKENIZER, {"number": 1})
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(tensors: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_writer, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        export(source, form, tmp_path / "out", TOKENIZER, {"number": 2})
    monkeypatch.undo()
    monkeypatch.setattr(export_folder, "write_json", lambda *_: full({}, tmp_path / "x"))
    with pytest.raises(CheckpointError, match="No space left on device"):
        export(source, form, tmp_path / "out", TOKENIZER, {"number": 3})
    (tmp_path / "x").unlink()

    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert json.loads((tmp_path / "out" / "export.json").read_text())["number"] == 1


def test_what_the_disk_changed_is_noticed(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flip(tensors: dict[str, Tensor], path: Path, **options: Any) -> None:
        first = next(iter(tensors))
        save_file(tensors | {first: tensors[first] * 2}, path, **options)

    save_file = tensor_writer.save_file
    monkeypatch.setattr(tensor_writer, "save_file", flip)
    with pytest.raises(CheckpointError, match=r"embedding.weight is not what was written"):
        export(start(), ExportFormat(name="transformers"), tmp_path / "out", None, {})

    assert not (tmp_path / "out").exists()


def test_earlier_export_is_replaced_as_a_whole(tmp_path: Path, start: Start) -> None:
    source, out = start(), tmp_path / "out"
    export(source, ExportFormat(name="transformers", max_shard_bytes=1), out, TOKENIZER, {})
    export(source, ExportFormat(name="state_spaces"), out, None, {})

    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "export.json",
        "model.safetensors",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


def test_export_onto_its_own_source_is_whole(tmp_path: Path, start: Start) -> None:
    export(start(), ExportFormat(name="state_spaces"), tmp_path / "out", TOKENIZER, {})
    expected = {name: t.clone() for name, t in tensors_of(tmp_path / "out").items()}
    source = find_source(str(tmp_path / "out"), "model")
    export(source, ExportFormat(name="transformers"), tmp_path / "out", TOKENIZER, {})
    found = tensors_of(tmp_path / "out")

    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_only_an_export_is_ever_replaced(tmp_path: Path, start: Start) -> None:
    out = tmp_path / "out"
    check_output(out, overwrite=False)
    out.mkdir()
    check_output(out, overwrite=False)
    (out / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="is never replaced; name another folder"):
            check_output(out, overwrite=overwrite)
    shutil.rmtree(out)
    export(start(), ExportFormat(name="transformers"), out, None, {})
    with pytest.raises(ConfigError, match=r"earlier export; .*overwrite=true"):
        check_output(out, overwrite=False)
    check_output(out, overwrite=True)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "gguf", "format is 'gguf', must be one of state_spaces, transformers"),
        ("dtype", "int8", "dtype is 'int8', must be one of bfloat16, float16, float32"),
        ("container", "zip", "container is 'zip', must be one of bin, safetensors"),
        ("max_shard_bytes", 0, "max_shard_bytes must be .* at least 1, found 0"),
    ],
)
def test_unknown_value_is_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportFormat(**{"name": "transformers", key: value})


def test_model_that_transformers_has_no_key_for_is_refused(tmp_path: Path, start: Start) -> None:
    config = Mamba2Config(d_model=24, n_layer=1, vocab_size=257, headdim=8, static=["dt"])
    save_pretrained(MambaLM(config, ReferenceScan()), tmp_path / "static")
    source = find_source(str(tmp_path / "static"), "model")
    with pytest.raises(CheckpointError, match=r"transformers: cannot hold this model: static is"):
        export(source, ExportFormat(name="transformers"), tmp_path / "out", None, {})
    export(source, ExportFormat(name="state_spaces"), tmp_path / "out", None, {})

    assert open_checkpoint(tmp_path / "out").config == config
