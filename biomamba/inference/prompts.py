"""Where prompts come from: a file of lines or of JSON objects, or a stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from biomamba.data.text_files import (
    TextFault,
    check_unicode,
    decode_text,
    parse_row,
    read_text_file,
)
from biomamba.runtime.errors import ConfigError, DataError


@dataclass(frozen=True)
class Prompt:
    """A text to go on with, and the id (None: none) that its line gave it.

    Raises:
        DataError: The text is empty; the message does not quote the prompt.
    """

    text: str
    id: str | int | None = None

    def __post_init__(self) -> None:
        if not self.text:
            raise DataError("the prompt is empty; give at least one character to go on with")
        check_unicode(self.text, "prompt")


def read_prompts(path: Path) -> list[Prompt]:
    """Read the lines of a .txt file, or the `prompt` (and `id`) of the objects of a .jsonl file.

    Raises:
        ConfigError: The file is of another kind.
        DataError: It is missing or holds a line that is no prompt; the message names the line by
            its number and never quotes it.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise ConfigError(
            f"prompts={path}: must be a .txt file (one prompt per line) or a .jsonl file (objects "
            "with a text `prompt` and, if wanted, an `id`)"
        )
    try:
        lines = read_text_file(path).split("\n")
    except DataError as error:
        raise DataError(f"prompts={error}") from None
    if not lines[-1]:
        lines.pop()  # behind the last line break
    prompts = list(_parse(path, lines))
    if not prompts:
        raise DataError(f"prompts={path}: holds no prompt")
    return prompts


def read_stream(stream: TextIO) -> Prompt:
    """Read one prompt to the end of a stream, without the last line break.

    Raises:
        ConfigError: The stream is a terminal, so no prompt was given.
    """
    if stream.isatty():
        raise ConfigError(
            "no prompt: give prompt='...', prompts=<file .txt or .jsonl>, or a text on standard "
            "input"
        )
    raw = stream.buffer.read() if hasattr(stream, "buffer") else stream.read().encode()
    return Prompt(decode_text(raw, "standard input").removesuffix("\n"))


def _parse(path: Path, lines: list[str]) -> Iterator[Prompt]:
    for number, line in enumerate(lines, start=1):
        try:
            yield _from_json(line) if path.suffix == ".jsonl" else Prompt(line.removesuffix("\r"))
        except DataError as error:
            raise DataError(f"prompts={path}, line {number}: {error}") from None


def _from_json(line: str) -> Prompt:
    try:
        found: Any = parse_row(line)
    except TextFault as fault:
        what = "must be an object with a text `prompt`"
        raise DataError(f"{str(fault).replace('row', 'it', 1)}; every line {what}") from None
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
        raise DataError("must be an object with a text `prompt`")
    name = found.get("id")
    if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
        raise DataError(f"`id` must be a text or an integer, is {type(name).__name__}")
    return Prompt(found["prompt"], name)
