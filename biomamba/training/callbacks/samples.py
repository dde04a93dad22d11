"""Continuations of fixed prompts at every validation, to see how a model writes."""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning
import torch
from torch import nn

from biomamba.data.datamodule import TrainingData
from biomamba.data.tokenizer import Tokenizer
from biomamba.inference.text_generation import Completion, TextGenerator, TextOptions
from biomamba.runtime.errors import ConfigError
from biomamba.training.callbacks.tensorboard import has_tensorboard, writers_of
from biomamba.training.module import LanguageModelingModule
from biomamba.training.resume import RunContext
from biomamba.training.strategy import ShardedStrategy

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+.!-])")
_LINE_END = "\u21b5"
_REMEDY = "or callbacks.samples=null"


class Samples(lightning.Callback):
    """Continues prompts with the weights that are validated, and writes the texts to TensorBoard.

    To nowhere else. The prompts are in the configuration, which the run folder keeps. A run whose
    data, or whose first weights' data, may not be shared is refused: a model can repeat what it
    has read. Sampling has random streams of its own, so the training is that of a run without it.

    Args:
        prompts: Texts to continue.
        text: How a text is continued.
        seed: Of the first prompt; the next ones have seed + 1, ...; the same at every validation.
        run: The run, which knows whether its texts may be shown. The program gives it; without it
            no text is written.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        text: TextOptions,
        seed: int = 0,
        *,
        run: RunContext | None = None,
    ) -> None:
        if isinstance(prompts, str) or not all(map(str.strip, prompts)) or not prompts:
            raise ConfigError(
                f"callbacks.samples.prompts is {prompts!r}; give a list of texts, none of them "
                f"empty, {_REMEDY}"
            )
        self._run = run
        self._prompts, self._text, self._seed = list(prompts), text, seed
        self._tokenizer: Tokenizer | None = None
        self._written_step: int | None = None

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Refuse runs whose texts may not be shown, or that cannot write them.

        Raises:
            ConfigError: on all ranks alike.
        """
        if self._run is None:
            raise ConfigError(
                "callbacks.samples: it is not known whether the data is restricted; pass run=, "
                f"{_REMEDY}"
            )
        if restrictions := self._run.restrictions():
            raise ConfigError(
                f"callbacks.samples: the model may repeat what must not be shown "
                f"({'; '.join(restrictions)}): take callbacks.samples=null"
            )
        if isinstance(trainer.strategy, ShardedStrategy):
            raise ConfigError(
                "callbacks.samples: the weights of this trainer are sharded, no rank can generate "
                f"alone; choose a trainer without fsdp, {_REMEDY}"
            )
        if not has_tensorboard(trainer):
            raise ConfigError(
                "callbacks.samples writes to TensorBoard alone: add logger=[tensorboard], "
                f"{_REMEDY}"
            )

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Continue the prompts; an average of the weights is still in their place then."""
        assert isinstance(pl_module, LanguageModelingModule)
        step, writers = trainer.global_step, writers_of(trainer)
        if not writers or step == self._written_step:
            return
        self._written_step = step
        for number, found in enumerate(self._continue(trainer, pl_module), start=1):
            shown = as_markdown(self._prompts[number - 1], found)
            for writer in writers:
                writer.add_text(f"samples/{number:02d}", shown, step)

    def _continue(
        self, trainer: lightning.Trainer, pl_module: LanguageModelingModule
    ) -> list[Completion]:
        tokenizer = self._tokenizer_of(trainer)
        seeds = range(self._seed, self._seed + len(self._prompts))
        with _own_layout(pl_module.model):
            run = TextGenerator(pl_module.model, tokenizer, self._text).start(self._prompts, seeds)
            for _ in run:
                pass
        return run.completions

    def _tokenizer_of(self, trainer: lightning.Trainer) -> Tokenizer:
        if self._tokenizer is None:
            data = getattr(trainer, "datamodule", None)
            assert isinstance(data, TrainingData)
            with TemporaryDirectory() as folder:
                path = Path(folder) / "tokenizer.json"
                data.save_tokenizer(path)
                self._tokenizer = Tokenizer.load(str(path))
        return self._tokenizer


@contextmanager
def _own_layout(model: nn.Module) -> Generator[None]:
    """Let a generator lay the weights out as it likes, and give the training its own back.

    Another layout would round the products of the training otherwise. Tensors made in inference
    mode, in which Lightning validates, could not be trained on.
    """
    kept = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        with torch.inference_mode(mode=False), torch.no_grad():
            yield
    finally:
        for parameter, data in kept:
            parameter.data = data


def as_markdown(prompt: str, found: Completion) -> str:
    """Return a prompt in bold with its continuation, every character as it is."""
    bold = prompt.rstrip()  # Markdown ends nothing bold after a space
    end = " ..." if found.stop_reason == "length" else ""
    return f"**{_literal(bold)}**{_literal(prompt[len(bold) :] + found.text)}{end}"


def _literal(text: str) -> str:
    """Escape what Markdown and HTML would read as their own; line breaks are marked."""
    plain = _MARKDOWN.sub(r"\\\1", escape(text, quote=False)).replace("~", "&#126;")
    return plain.replace("\n", f" {_LINE_END}  \n")
