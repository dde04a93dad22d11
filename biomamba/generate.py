"""Continue a text, or every prompt of a file.

    python -m biomamba.generate checkpoint=runs/x/model prompt="The patient was"
    python -m biomamba.generate checkpoint=runs/x/model prompts=prompts.jsonl output=texts.jsonl
    python -m biomamba.generate checkpoint=runs/x/model < prompt.txt

One prompt is continued on standard output as the text comes. A file (.txt: one prompt per line;
.jsonl: objects with `prompt` and perhaps `id`) becomes JSON lines in the same order. A prompt is
kept out of the configuration, of logs and of error messages.
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    signals.start_program()

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from biomamba.config.check import build
from biomamba.config.cli import run_cli
from biomamba.config.run_settings import plain_parts
from biomamba.inference.text_generation import (
    Completion,
    Prompt,
    TextGenerator,
    find_tokenizer,
    read_prompts,
    read_stream,
)
from biomamba.model.checkpoint import load_pretrained, weights_digest
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_whole
from biomamba.training.lineage import keep_private


def main(cfg: DictConfig, prompt: str | None = None) -> None:
    """Continue the prompt, the prompts of the file, or standard input."""
    keep_private(plain_parts(cfg))
    prompts = find_prompts(cfg.prompts, prompt)
    output = None if cfg.prompts is None else new_file(Path(cfg.output))
    check_whole("batch_size", cfg.batch_size)
    options = build(cfg.text)
    stop = [text.replace(r"\n", "\n") for text in options.stop]  # Hydra leaves the two characters
    options = dataclasses.replace(options, stop=stop)
    tokenizer = find_tokenizer(cfg.checkpoint, cfg.tokenizer_file)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_pretrained(cfg.checkpoint, build(cfg.model.backend)).to(device).eval()
    generator = TextGenerator(model, tokenizer, options)
    if output is None:
        print_text(generator, prompts[0], cfg.seed)
        return
    origin = {
        "checkpoint": {"path": str(cfg.checkpoint), "sha256": weights_digest(cfg.checkpoint)},
        "tokenizer_sha256": tokenizer.fingerprint,
        "options": dataclasses.asdict(options),
    }
    with Batches(generator, prompts, cfg.batch_size, cfg.seed) as batches:
        write_records(output, batches, origin)
    print(f"{len(prompts):,} texts: {output}")


def find_prompts(file: str | None, prompt: str | None) -> list[Prompt]:
    """Return what is to be continued; from standard input if neither is given."""
    if file is not None and prompt is not None:
        raise ConfigError("prompt and prompts are both given; give one of them")
    if file is not None:
        return read_prompts(Path(file))
    return [read_stream(sys.stdin) if prompt is None else Prompt(prompt)]


def new_file(path: Path) -> Path:
    """Return the path of a file that does not exist yet, in a folder that does."""
    if path.exists():
        raise DataError(f"output={path}: exists; name another file, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def print_text(generator: TextGenerator, prompt: Prompt, seed: int) -> None:
    """Write the continuation to standard output as it comes; its figures to standard error."""
    run, begin = generator.start([prompt.text], [seed]), time.perf_counter()
    for _, piece in run:
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()
    found, seconds = run.completions[0], time.perf_counter() - begin
    sys.stderr.write(
        f"{found.num_new_tokens} tokens, {found.num_new_tokens / seconds:.1f} per second, "
        f"ended by {found.stop_reason}\n"
    )


class Batches:
    """Continues prompts batch by batch, in their order; shows rate and remaining time on stderr."""

    def __init__(
        self, generator: TextGenerator, prompts: Sequence[Prompt], batch_size: int, seed: int
    ) -> None:
        self._generator, self._prompts = generator, prompts
        self._batch_size, self._seed = batch_size, seed
        self._progress = Progress(
            TextColumn("generate"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def __enter__(self) -> "Batches":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __iter__(self) -> Iterator[tuple[Prompt, int, Completion]]:
        """Yield each prompt with its seed and its continuation."""
        task = self._progress.add_task("generate", total=len(self._prompts), rate="")
        begin, num_tokens = time.perf_counter(), 0
        for first in range(0, len(self._prompts), self._batch_size):
            batch = self._prompts[first : first + self._batch_size]
            seeds = range(self._seed + first, self._seed + first + len(batch))
            run = self._generator.start([prompt.text for prompt in batch], seeds)
            for row, _ in run:
                num_tokens += 1
                rate = f"{num_tokens / (time.perf_counter() - begin):.1f} tokens/s"
                done = 1 if run.completions[row].stop_reason else 0
                self._progress.update(task, advance=done, rate=rate)
            yield from zip(batch, seeds, run.completions, strict=True)


def write_records(
    output: Path, batches: Iterable[tuple[Prompt, int, Completion]], origin: Mapping[str, Any]
) -> None:
    """Append one JSON object per text, as soon as its batch is done."""
    with output.open("x", encoding="utf-8") as file:
        for prompt, seed, completion in batches:
            name = {} if prompt.id is None else {"id": prompt.id}
            record = name | {
                "prompt": prompt.text,
                "text": completion.text,
                "num_new_tokens": completion.num_new_tokens,
                "stop_reason": completion.stop_reason,
                "seed": seed,
                "provenance": origin,
            }
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()


def take_prompt(arguments: list[str]) -> str | None:
    """Remove `prompt=...` from command-line arguments and return the text, exactly as given.

    Hydra would read commas and brackets in it as its own, and write it into files.
    """
    found = [argument for argument in arguments if argument.startswith("prompt=")]
    for argument in found:
        arguments.remove(argument)
    return found[-1].removeprefix("prompt=") if found else None


if __name__ == "__main__":
    run_cli("generate", partial(main, prompt=take_prompt(sys.argv)))
