"""Texts at every validation: which, once per step, and never at the cost of the training."""

import html
import re
from collections.abc import Callable
from typing import Any

import lightning
import markdown
import pytest
import torch

from biomamba.inference.text_generation import Completion, TextOptions
from biomamba.model.generation import GenerationOptions, Sampling
from biomamba.runtime.errors import ConfigError
from biomamba.training.callbacks.averaging import Ema
from biomamba.training.callbacks.samples import Samples, as_markdown
from biomamba.training.resume import RunContext, Start

PROMPTS = ["Aspirin", "The capital of"]
NewRun = Callable[[str], Any]


def make(*, temperature: float = 1.0, restrictions: list[str] | None = None) -> Samples:
    sampling = Sampling(temperature=temperature)
    text = TextOptions(tokens=GenerationOptions(max_new_tokens=4, sampling=sampling))
    run = RunContext({}, Start(), lambda: restrictions or [])
    return Samples(PROMPTS, text, seed=3, run=run)


def weights(run: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.module.state_dict().items()}


def test_a_stopped_run_with_sampled_texts_is_the_run_without_them(small_run: NewRun) -> None:
    without = small_run("without").start([])
    whole = small_run("whole").start([make()])
    stopped = small_run("stopped")
    stopped.start([make()], stop=5)
    stopped.start([make()], resume=3)
    for other in (whole, stopped):
        for name, value in weights(without).items():
            assert torch.equal(weights(other)[name], value), name
        strides = [p.stride() for p in other.module.parameters()]
        assert strides == [p.stride() for p in without.module.parameters()]
    # Validations before the first step and after every second one.
    for tag in ("samples/01/text_summary", "samples/02/text_summary"):
        assert stopped.steps()[tag] == whole.steps()[tag] == [0, 2, 4, 6, 8]
        assert stopped.texts(tag) == whole.texts(tag)
    assert all(len(steps) == len(set(steps)) for steps in stopped.steps().values())
    assert whole.texts("samples/01/text_summary")[0].startswith("**Aspirin**")


def test_texts_are_written_nowhere_else(
    small_run: NewRun, capfd: pytest.CaptureFixture[str]
) -> None:
    run = small_run("run").start([make()])
    assert not any("Aspirin" in text for text in capfd.readouterr())
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    holding = {path.parent.name for path in files if b"Aspirin" in path.read_bytes()}
    assert holding == {"tensorboard"}


def test_the_average_that_is_validated_writes(small_run: NewRun) -> None:
    def texts(name: str, *averages: lightning.Callback) -> list[str]:
        run = small_run(name).start([*averages, make(temperature=0.0)])
        found: list[str] = run.texts("samples/02/text_summary")
        return found

    # An average that never moves writes what the weights did before the first step.
    still = texts("still", Ema("unused", 0.999_999_9))
    plain = texts("plain")
    assert len(set(still)) == 1 < len(set(plain))
    assert plain[0] == still[0]


def test_restricted_data_is_refused_before_anything_is_written(small_run: NewRun) -> None:
    run = small_run("run")
    with pytest.raises(ConfigError, match=r"task notes has access: restricted.*samples=null"):
        run.start([make(restrictions=["task notes has access: restricted"])])
    assert run.steps() == {}
    text = TextOptions(tokens=GenerationOptions(max_new_tokens=4))
    with pytest.raises(ConfigError, match="not known whether the data is restricted"):
        run.start([Samples(PROMPTS, text)])


def test_other_refusals(small_run: NewRun) -> None:
    for prompts in ([], ["a", " "], "text"):
        with pytest.raises(ConfigError, match=r"callbacks\.samples\.prompts is"):
            Samples(prompts, TextOptions(tokens=GenerationOptions(max_new_tokens=1)))
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(ConfigError, match="writes to TensorBoard alone"):
        make().setup(trainer, lightning.LightningModule(), "fit")


def test_markdown_shows_every_character() -> None:
    text = "\n\n# *a* <b>&amp; `c` [d](e) ~~~ 1. - | _f_\n    g \\ !"
    shown = as_markdown("The <i> ", Completion(text, 3, "length"))
    page = markdown.markdown(shown, extensions=["tables", "fenced_code"])
    assert page.count("<p>") == page.count("<strong>") == 1
    lines = [line.strip() for line in _words(page).split("\n")]
    told = [
        "The <i>  \u21b5",
        "\u21b5",
        *(f"{line.strip()} \u21b5" for line in text.split("\n")[2:]),
    ]
    told[-1] = told[-1].removesuffix(" \u21b5") + " ..."
    assert lines == told


def _words(page: str) -> str:
    """Return what a browser shows, of the tags that there may be."""
    assert set(re.findall(r"<(/?\w+)", page)) <= {"p", "/p", "strong", "/strong", "br"}
    return html.unescape(re.sub(r"<[^>]+>", "", page))
