"""`python -m biomamba.export`: from published layouts and from runs, and into them again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

from biomamba import prepare, train
from biomamba.config.check import build
from biomamba.config.compose import compose_config
from biomamba.data.tokenizer import Tokenizer
from biomamba.evaluation.records import ResultRecord, format_records
from biomamba.export import main
from biomamba.inference.text_generation import TextGenerator, find_tokenizer
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.checkpoint import (
    build_model,
    load_pretrained,
    open_checkpoint,
    save_pretrained,
    weights_digest,
)
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.model.loss import linear_cross_entropy
from biomamba.runtime.errors import BioMambaError, CheckpointError, ConfigError, DataError

Export = Callable[..., str]


@pytest.fixture
def run_export(compose: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]) -> Export:
    """Return run_export(*overrides): what the program prints."""

    def _run(*overrides: str) -> str:
        main(compose("export", *overrides))
        return capsys.readouterr().out

    return _run


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=257, d_state=8, headdim=8)
    save_pretrained(MambaLM(config, ChunkedScan(8)), tmp_path / "model")
    return tmp_path / "model"


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in open_checkpoint(folder).weights().items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_program_tells_what_it_wrote(
    run_export: Export, model_folder: Path, tmp_path: Path
) -> None:
    out = run_export(
        f"checkpoint={model_folder}",
        "format=transformers",
        "dtype=bfloat16",
        f"output={tmp_path}/out",
    )

    assert f"exported: {model_folder} as transformers (bfloat16)" in out
    assert f"{tmp_path}/out/model.safetensors" in out
    assert "rounded: " in out
    assert "no tokenizer" in out
    expected = {name: t.bfloat16().float() for name, t in tensors_of(model_folder).items()}
    assert_equal(tensors_of(tmp_path / "out"), expected)
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert len(record["source"]["sha256"]) == 64
    assert {"git", "argv", "versions"} <= record.keys()


def test_the_tokenizer_beside_the_weights_is_taken(
    run_export: Export, model_folder: Path, tmp_path: Path
) -> None:
    Tokenizer.byte_tokenizer().save(model_folder / "tokenizer.json")
    out = run_export(f"checkpoint={model_folder}", "format=transformers", f"output={tmp_path}/out")
    raw = json.loads((tmp_path / "out" / "config.json").read_text())

    assert "no tokenizer" not in out
    assert (raw["bos_token_id"], raw["eos_token_id"], raw["pad_token_id"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (["format=gguf"], ConfigError, "format is 'gguf'"),
        (["weights=best"], ConfigError, "weights is 'best'"),
        (["weights=ema"], ConfigError, "weights is ema, but"),
        (["output=${checkpoint}"], ConfigError, "never replaced"),
        (["checkpoint=./none"], CheckpointError, "no such folder"),
        (["checkpoint=runs/cpt/none"], CheckpointError, "checkpoint is runs/cpt/none: no such"),
        (["checkpoint=step_5.ckpt"], CheckpointError, r"checkpoint is step_5\.ckpt: no such"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(
    run_export: Export,
    model_folder: Path,
    tmp_path: Path,
    overrides: list[str],
    kind: type[BioMambaError],
    message: str,
) -> None:
    given = [f"checkpoint={model_folder}", "format=transformers", f"output={tmp_path}/out"]
    with pytest.raises(kind, match=message):
        run_export(*given, *overrides)

    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_all_mistakes_are_told_at_once_before_weights_are_read(
    run_export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomamba.export.find_source", pytest.fail)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    wrong = {
        "dtype": "dtype is 'int3'",
        "output": "which holds other things than an export",
        "weights": "weights is 'best'",
        "checkpoint": f"checkpoint is {tmp_path}/none: no such folder",
        "tokenizer_file": f"{tmp_path}/none.json",
        "card.license": "card.license is 'my own'",
        "card.results": f"card.results: {tmp_path}/none holds neither",
    }
    with pytest.raises(ConfigError) as caught:
        run_export(
            f"checkpoint={tmp_path}/none",
            "format=transformers",
            "dtype=int3",
            "weights=best",
            f"output={tmp_path}/out",
            f"tokenizer_file={tmp_path}/none.json",
            "card.license=my own",
            f"card.results=[{tmp_path}/none]",
        )
    first, *lines = str(caught.value).splitlines()

    assert first == "7 problems in the configuration:"
    for line, (key, words) in zip(lines, wrong.items(), strict=True):
        assert words in line, key


def test_weights_that_may_not_be_shared_are_refused_before_they_are_read(
    run_export: Export, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomamba.export.find_source", pytest.fail)
    monkeypatch.setattr("biomamba.export.reasons_to_hold_back", lambda _: ["secret notes"])
    with pytest.raises(ConfigError, match="is not written: secret notes"):
        run_export(f"checkpoint={model_folder}", "format=transformers", f"output={tmp_path}/out")


def write_run(model: Path, data: dict[str, Any]) -> Path:
    """Make the folder of a model that of a run which learned from this data."""
    (model.parent / "run.json").write_text(json.dumps({"data": data}))
    return model


def write_evaluation(folder: Path, sha256: str) -> Path:
    records = [
        ResultRecord(
            model="model",
            source="pubmed",
            split="test",
            metric="bits_per_byte",
            unit="",
            value=1.25,
            low=1.125,
            high=1.375,
            level=0.95,
            num_documents=2,
            num_tokens=20,
            num_bytes=60,
            provenance={"checkpoints": {"model": {"sha256": sha256}}},
        )
    ]
    folder.mkdir()
    (folder / "results.jsonl").write_text(format_records(records))
    return folder


def test_transformers_loads_the_folder_and_writes_the_same_text(
    run_export: Export, tmp_path: Path, compose: Callable[..., DictConfig]
) -> None:
    transformers = pytest.importorskip("transformers")
    ours = Tokenizer.train_bpe(["the patient had fever and fatigue, fever"] * 3, 275)
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=ours.vocab_size, d_state=8, headdim=8)
    model = MambaLM(config, ChunkedScan(8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_pretrained(model, tmp_path / "model")
    ours.save(tmp_path / "model" / "tokenizer.json")
    out = tmp_path / "out"
    run_export(f"checkpoint={tmp_path}/model", "format=transformers", f"output={out}")

    theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    options = build(compose("generate", f"checkpoint={out}").text)
    run = TextGenerator(model.eval(), find_tokenizer(str(out), None), options).start(
        ["the patient"], [1]
    )
    list(run)
    expected = run.completions[0]
    inputs = tokenizer(tokenizer.bos_token + "the patient", return_tensors="pt")
    found = theirs.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    assert expected.num_new_tokens > 3
    assert tokenizer.decode(found, skip_special_tokens=True) == expected.text
    assert len(found) == expected.num_new_tokens


def test_a_card_without_records_says_that_nothing_is_known(
    run_export: Export, model_folder: Path, tmp_path: Path
) -> None:
    run_export(f"checkpoint={model_folder}", "format=transformers", f"output={tmp_path}/out")
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])

    assert (front["license"], front["pipeline_tag"]) == ("other", "text-generation")
    assert "No results were given" in card
    assert "Training data, licences and mixture: not known" in card
    assert "No tokenizer is in this folder" in card
    assert "README.md" in json.loads((tmp_path / "out" / "export.json").read_text())["files"]


def test_a_card_has_the_results_of_its_weights_and_no_others(
    run_export: Export, model_folder: Path, tmp_path: Path
) -> None:
    own = write_evaluation(tmp_path / "own", weights_digest(model_folder))
    other = write_evaluation(tmp_path / "other", "b" * 64)
    given = [f"checkpoint={model_folder}", "format=transformers", f"output={tmp_path}/out"]
    with pytest.raises(DataError, match=r"`model` \(sha256 bbbbbbbbbbbb\)"):
        run_export(*given, f"card.results=[{own},{other}]")
    assert not (tmp_path / "out").exists()
    run_export(*given, f"card.results=[{own}]", "card.license=mit", "card.language=[en]")
    card = (tmp_path / "out" / "README.md").read_text()

    assert "1.250 [1.125, 1.375]" in card
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "mit"


@pytest.mark.parametrize("layout", ["transformers", "state_spaces"])
@pytest.mark.parametrize(
    "data", [{"tasks": {"notes": {"access": "restricted"}}}, {}], ids=["restricted", "unknown"]
)
def test_weights_of_restricted_data_are_written_with_the_key_only(
    run_export: Export, model_folder: Path, tmp_path: Path, data: dict[str, Any], layout: str
) -> None:
    write_run(model_folder, data)
    given = [f"checkpoint={model_folder}", f"format={layout}", f"output={tmp_path}/out"]
    with pytest.raises(ConfigError, match=r"add card\.allow_restricted=true"):
        run_export(*given)
    assert not (tmp_path / "out").exists()
    run_export(*given, "card.allow_restricted=true")
    if layout == "transformers":
        assert "\n> **" in (tmp_path / "out" / "README.md").read_text()
    again = [f"checkpoint={tmp_path}/out", f"format={layout}", f"output={tmp_path}/again/out"]
    with pytest.raises(ConfigError, match=r"add card\.allow_restricted=true"):
        run_export(*again)


def test_keys_of_a_card_are_refused_where_there_is_none(
    run_export: Export, model_folder: Path, tmp_path: Path
) -> None:
    given = [f"checkpoint={model_folder}", "format=state_spaces", f"output={tmp_path}/out"]
    with pytest.raises(ConfigError, match="has no model card"):
        run_export(*given, "card.license=mit")


RUN = (
    "max_tokens=1_024",
    "tokens_per_step=256",
    "data.budget.seq_len=64",
    "data.budget.micro_batch_size=4",
    "data.max_val_documents=2",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "callbacks=ema",
    "callbacks.progress=null",
    "callbacks.preemption=null",
    "model.config.d_model=32",
    "model.config.n_layer=2",
    "run_id=x",
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_run_is_exported_from_its_folder_and_from_its_checkpoints(
    run_export: Export,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start_run: Callable[[], Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    start_run()
    run = tmp_path / "runs" / "train" / "x"
    last = max((run / "checkpoints").glob("step_*.ckpt"))
    for weights, folder in (("model", "model"), ("ema", "model_ema")):
        expected = tensors_of(run / folder)
        for number, source in enumerate((run, last, run / "checkpoints")):
            output = tmp_path / f"{weights}-{number}"
            run_export(
                f"checkpoint={source}",
                f"weights={weights}",
                "format=transformers",
                f"output={output}",
            )
            assert_equal(tensors_of(output), expected)
            record = json.loads((output / "export.json").read_text())
            assert record["source"]["weights"] == weights
            assert "tokenizer.json" in record["files"]
            assert "no rights of others" in (output / "README.md").read_text()
            if number > 0:
                assert record["source"]["step"] == 4
    first, second = tensors_of(tmp_path / "model-1"), tensors_of(tmp_path / "ema-1")
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def start_run(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return start_run(): a training of four steps in the current folder."""

    def _start() -> None:
        # What hydra would say about the command line.
        overrides = type("Overrides", (), {"task": list(RUN)})
        hydra = type("Hydra", (), {"overrides": overrides})
        monkeypatch.setattr(train.HydraConfig, "get", lambda: hydra)
        monkeypatch.setattr(train.signals, "restore", lambda: None)
        prepare.main(compose_config("prepare", []))
        train.main(compose_config("train", RUN))

    return _start


STEPS, ROWS, LENGTH = 20, 2, 32


def published_130m(folder: Path) -> dict[str, Tensor]:
    """Write random weights in the exact layout of state-spaces/mamba2-130m; return them.

    The published file is a pytorch_model.bin with the tied head in it.
    """
    raw = {
        "d_model": 768,
        "d_intermediate": 0,
        "n_layer": 24,
        "vocab_size": 50277,
        "ssm_cfg": {"layer": "Mamba2"},
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 16,
        "tie_embeddings": True,
    }
    block = {
        "mixer.dt_bias": (24,),
        "mixer.A_log": (24,),
        "mixer.D": (24,),
        "mixer.in_proj.weight": (3352, 768),
        "mixer.conv1d.weight": (1792, 1, 4),
        "mixer.conv1d.bias": (1792,),
        "mixer.norm.weight": (1536,),
        "mixer.out_proj.weight": (768, 1536),
        "norm.weight": (768,),
    }
    shapes = {"backbone.embedding.weight": (50288, 768), "backbone.norm_f.weight": (768,)}
    shapes |= {
        f"backbone.layers.{number}.{name}": shape
        for number in range(24)
        for name, shape in block.items()
    }
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: (1.0 if name.endswith("norm.weight") or "norm_f" in name else 0.0)
        + torch.randn(shape, generator=generator) * 0.02
        for name, shape in shapes.items()
    }
    tensors["lm_head.weight"] = tensors["backbone.embedding.weight"]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(raw))
    torch.save(tensors, folder / "pytorch_model.bin")
    del tensors["lm_head.weight"]
    return tensors


def take_steps(model: MambaLM) -> list[float]:
    """Train on a few random rows, so that they are learned by heart; return the losses."""
    ids = torch.randint(50_277, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    losses = []
    for _ in range(STEPS):
        hidden, _ = model.hidden(ids[:, :-1])
        loss = linear_cross_entropy(hidden.flatten(0, 1), model.head_weight, ids[:, 1:].flatten())
        loss = loss / ids[:, 1:].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_130m_is_loaded_trained_exported_and_the_same_in_transformers(
    run_export: Export, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    published = published_130m(tmp_path / "published")
    config = Mamba2Config(d_model=768, n_layer=24, vocab_size=50_277)
    model = build_model(config, ChunkedScan(64), str(tmp_path / "published"))
    assert_equal(dict(model.named_parameters()), published)
    del published
    losses = take_steps(model)
    assert losses[-1] < losses[0] - 1
    model.zero_grad(set_to_none=True)
    save_pretrained(model, tmp_path / "trained")
    run_export(
        f"checkpoint={tmp_path}/trained",
        "format=transformers",
        "max_shard_bytes=200_000_000",
        f"output={tmp_path}/out",
    )
    assert_equal(tensors_of(tmp_path / "out"), dict(model.named_parameters()))

    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(50_277, (1, 24), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, logits = theirs(ids, labels=ids), model(ids)
    # Two float32 computations of 24 blocks, each block with sums of 768 and 1536 products: they
    # may differ by about sqrt(24 * (768 + 1536)) = 235 roundings (2 ** -24) of the largest logit.
    tolerance = 235 * 2**-24 * expected.logits.abs().max()
    assert (logits - expected.logits).abs().max() < tolerance
    loss = F.cross_entropy(logits[0, :-1], ids[0, 1:])
    assert (loss - expected.loss).abs() < tolerance
    continued = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False
    )
    for _ in range(10):
        with torch.no_grad():
            choice = model(ids)[:, -1, :50_277].argmax(-1, keepdim=True)
        ids = torch.cat([ids, choice], dim=1)
    assert torch.equal(continued, ids)
    del theirs

    run_export(
        f"checkpoint={tmp_path}/out",
        "format=state_spaces",
        "container=bin",
        f"output={tmp_path}/back",
    )
    again = load_pretrained(tmp_path / "back", ChunkedScan(64))
    assert again.config == config
    assert_equal(dict(again.named_parameters()), dict(model.named_parameters()))
