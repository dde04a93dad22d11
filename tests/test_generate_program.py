"""`python -m biomamba.generate` on a small model of bytes."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from biomamba.data.tokenizer import Tokenizer
from biomamba.generate import main, take_prompt
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.checkpoint import save_pretrained, weights_digest
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import BioMambaError, CheckpointError, ConfigError, DataError

Generate = Callable[..., str]
SHORT = ("generation.max_new_tokens=12", "sampling.temperature=1.0")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=257, d_state=8, headdim=8)
    save_pretrained(MambaLM(config, ChunkedScan(8)), tmp_path / "model")
    Tokenizer.byte_tokenizer().save(tmp_path / "model" / "tokenizer.json")
    return tmp_path / "model"


@pytest.fixture
def generate(
    checkpoint: Path, compose: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]
) -> Generate:
    """Return generate(*overrides, prompt=...): what the program prints."""

    def _generate(*overrides: str, prompt: str | None = None) -> str:
        main(compose("generate", f"checkpoint={checkpoint}", *SHORT, *overrides), prompt)
        return capsys.readouterr().out

    return _generate


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_prompt_is_continued_on_standard_output(generate: Generate) -> None:
    text = generate(prompt="The heart")

    assert text.endswith("\n")
    assert text.strip("\n")
    assert text == generate(prompt="The heart")
    assert text != generate("seed=2", prompt="The heart")


def test_standard_input_is_a_prompt(generate: Generate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("The heart\n"))

    assert generate() == generate(prompt="The heart")


def test_every_prompt_of_a_file_gets_a_record(generate: Generate, tmp_path: Path) -> None:
    prompts = [{"prompt": "a\nb", "id": "x"}, {"prompt": "c"}, {"prompt": "d\u00ef", "id": 3}]
    file, output = tmp_path / "p.jsonl", tmp_path / "out" / "texts.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in prompts))
    said = generate(f"prompts={file}", f"output={output}", "batch_size=2")
    found = records(output)

    assert str(output) in said
    assert [{k: r[k] for k in ("prompt", "id") if k in r} for r in found] == prompts
    assert [record["seed"] for record in found] == [1, 2, 3]
    for record in found:
        assert 0 < record["num_new_tokens"] <= 12
        assert record["stop_reason"] in ("eos", "length")
        alone = generate(f"seed={record['seed']}", prompt=record["prompt"])
        assert alone == record["text"] + "\n"


def test_record_says_where_it_comes_from(
    generate: Generate, checkpoint: Path, tmp_path: Path
) -> None:
    file, output = tmp_path / "p.txt", tmp_path / "texts.jsonl"
    file.write_text("one\n")
    generate(f"prompts={file}", f"output={output}", 'text.stop=["zz"]')
    origin = records(output)[0]["provenance"]

    assert origin["checkpoint"] == {"path": str(checkpoint), "sha256": weights_digest(checkpoint)}
    assert origin["tokenizer_sha256"] == Tokenizer.byte_tokenizer().fingerprint
    assert origin["options"]["tokens"]["sampling"]["temperature"] == 1.0
    assert origin["options"]["stop"] == ["zz"]


def test_a_missing_checkpoint_is_named(compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent: no such folder"):
        main(compose("generate", f"checkpoint={tmp_path / 'absent'}"), "x")


def test_another_tokenizer_can_be_named(
    generate: Generate, checkpoint: Path, tmp_path: Path
) -> None:
    expected = generate(prompt="x")
    (checkpoint / "tokenizer.json").rename(tmp_path / "t.json")

    assert generate(f"tokenizer_file={tmp_path / 't.json'}", prompt="x") == expected
    with pytest.raises(DataError, match=r"no tokenizer\.json .* tokenizer_file="):
        generate(prompt="x")


@pytest.mark.parametrize(
    ("overrides", "prompt", "error", "message"),
    [
        ((), "", DataError, "the prompt is empty"),
        (("prompts=p.txt",), "x", ConfigError, "prompt and prompts are both given"),
        (("prompts=p.csv",), None, ConfigError, "must be a .txt file"),
        (("batch_size=0",), "x", ConfigError, "batch_size must be .* at least 1, found 0"),
    ],
)
def test_mistakes_are_told(
    overrides: tuple[str, ...],
    prompt: str | None,
    error: type[BioMambaError],
    message: str,
    generate: Generate,
) -> None:
    with pytest.raises(error, match=message):
        generate(*overrides, prompt=prompt)


def test_an_existing_output_is_not_touched(generate: Generate, tmp_path: Path) -> None:
    file, output = tmp_path / "p.txt", tmp_path / "texts.jsonl"
    file.write_text("one\n")
    output.write_text("precious")
    with pytest.raises(DataError, match=r"texts\.jsonl: exists; name another file"):
        generate(f"prompts={file}", f"output={output}")
    assert output.read_text() == "precious"


def test_stop_strings_can_hold_line_breaks(generate: Generate, tmp_path: Path) -> None:
    file, output = tmp_path / "p.txt", tmp_path / "texts.jsonl"
    file.write_text("one\n")
    generate(f"prompts={file}", f"output={output}", r'text.stop=["\n\nQ: ","#"]')

    assert records(output)[0]["provenance"]["options"]["stop"] == ["\n\nQ: ", "#"]


@pytest.mark.parametrize("text", ["a, b [c] {d}: ${e} = 'f' \"g\" \\", "", "prompt=x", " y "])
def test_prompt_is_taken_as_it_stands(text: str) -> None:
    arguments = ["program", "seed=2", f"prompt={text}", "prompts=x"]

    assert take_prompt(arguments) == text
    assert arguments == ["program", "seed=2", "prompts=x"]
    assert take_prompt(arguments) is None


@pytest.mark.slow
def test_program_leaves_no_trace_of_a_prompt(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "biomamba.generate", f"checkpoint={checkpoint}", *arguments],
            cwd=folder, capture_output=True, text=True, timeout=300, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    secret = "Mrs. Doe, 81: ${x} [sepsis]"
    done = run(f"prompt={secret}", "generation.max_new_tokens=4")
    assert done.returncode == 0, done.stderr
    assert "4 tokens" in done.stderr
    wrong = run(f"prompt={secret}", "sampling.temprature=1")
    assert wrong.returncode == 2
    assert "temperature" in wrong.stderr
    assert "Doe" not in done.stderr + wrong.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_graphs_that_are_asked_for_need_a_gpu(generate: Generate) -> None:
    text = generate("generation.cuda_graph=false", prompt="The heart")
    assert text == generate("generation.cuda_graph=auto", prompt="The heart")
    with pytest.raises(ConfigError, match=r"generation.cuda_graph=true: the model is on cpu"):
        generate("generation.cuda_graph=true", prompt="The heart")
    with pytest.raises(BioMambaError, match="cuda_graph='on': must be auto, true or false"):
        generate("generation.cuda_graph='on'", prompt="The heart")
