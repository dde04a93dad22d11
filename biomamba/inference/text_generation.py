"""Text generation: prompts from files, the tokenizer of a checkpoint, streamed continuations."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from biomamba.data.rows import (
    TextFault,
    check_unicode,
    decode_text,
    parse_row,
    read_text_file,
)
from biomamba.data.tokenizer import Tokenizer
from biomamba.model.checkpoint import open_checkpoint
from biomamba.model.cuda_graphs import make_decoder
from biomamba.model.generation import Generation, GenerationOptions, Vocabulary
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import CheckpointError, ConfigError, DataError

# -------------------------------------------------------------------------------------------------
# The tokenizer that a checkpoint was trained with.
# -------------------------------------------------------------------------------------------------


def find_tokenizer(checkpoint: str, named: str | None) -> Tokenizer:
    """Load the tokenizer that is named, or the one of the checkpoint."""
    if named is not None:
        return Tokenizer.load(named)
    folder = Path(checkpoint).expanduser()
    repository, _, revision = checkpoint.partition("@")
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.load(str(folder / "tokenizer.json"))
    try:
        if not folder.is_dir():
            return Tokenizer.load(repository, revision or None)
    except DataError:
        open_checkpoint(checkpoint)  # says what is wrong if there is no checkpoint at all
    raise DataError(
        f"checkpoint={checkpoint}: no tokenizer.json is beside the weights; name the tokenizer "
        "that the model was trained with: tokenizer_file=<tokenizer.json or hub id>, for the "
        "published state-spaces checkpoints tokenizer_file=EleutherAI/gpt-neox-20b"
    )


# -------------------------------------------------------------------------------------------------
# Turn ids that come one by one into text that can be shown at once.
#
# A token of a byte-level tokenizer can end inside a character, and a stop string can start inside
# one token and end in a later one. What may still change is held back until it is certain.
# -------------------------------------------------------------------------------------------------

_INCOMPLETE = "\ufffd"  # what a decoder puts in the place of a character that is cut off


class TextStream:
    """The text of one continuation.

    Args:
        decode: From ids to text.
        stop: Texts that end the continuation; they do not belong to it.
        before: Last ids of the prompt: some tokenizers write a token otherwise after others.

    Raises:
        ValueError: A stop string is empty.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str] = (),
        before: Sequence[int] = (),
    ) -> None:
        if not all(stop):
            raise ValueError("stop: an empty text would end every continuation at once")
        self._decode = decode
        self._stop = tuple(stop)
        self._before, self._ids = list(before), list[int]()
        self._written = 0  # characters of the text of _ids that were passed on
        self._held = ""  # decoded, but perhaps the beginning of a stop string
        self.is_stopped = False

    def push(self, token: int) -> str:
        """Add an id and return the text that is certain now; empty if none is."""
        self._ids.append(token)
        text = self._text()
        is_complete = not text.endswith(_INCOMPLETE)
        certain = text if is_complete else text[:-1]
        new = certain[self._written :]
        self._written = len(certain)
        if is_complete:
            self._before, self._ids, self._written = self._ids, [], 0
        return self._until_stop(new)

    def finish(self) -> str:
        """Return what was held back, at the end of the continuation."""
        if self.is_stopped:
            return ""
        rest = self._until_stop(self._text()[self._written :])
        if not self.is_stopped:
            rest, self._held = rest + self._held, ""
        self._before, self._ids, self._written = self._ids, [], 0
        return rest

    def _text(self) -> str:
        """Return the text of the ids not yet complete."""
        return self._decode(self._before + self._ids)[len(self._decode(self._before)) :]

    def _until_stop(self, new: str) -> str:
        text = self._held + new
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of the text with which the stop string starts."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)


# -------------------------------------------------------------------------------------------------
# Where prompts come from: a file of lines or of JSON objects, or a stream.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """A text to continue with, and the id (None: none) that its line gave it.

    Raises:
        DataError: The text is empty; the message does not quote the prompt.
    """

    text: str
    id: str | int | None = None

    def __post_init__(self) -> None:
        if not self.text:
            raise DataError("the prompt is empty; give at least one character to continue with")
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
        lines.pop()  # after the last line break
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


# -------------------------------------------------------------------------------------------------
# Continue texts with a model and its tokenizer.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How texts are continued.

    Raises:
        ValueError: A field is out of range; the message names it.
    """

    tokens: GenerationOptions
    """Number of tokens and how they are chosen."""
    stop: Sequence[str] = ()
    """Texts that end a continuation; they do not belong to it."""
    starts_document: bool = True
    """Whether the end-of-document token precedes the prompt, as in training every document."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str) or not all(self.stop):
            raise ValueError(f"stop={self.stop!r}: must be a list of texts, none of them empty")


@dataclass
class Completion:
    """A continuation that grows.

    Attributes:
        num_new_tokens: Tokens that were generated, those of a stop string among them.
        stop_reason: "eos" (the model ended the document), "length" (no more tokens were wanted),
            "stop" (a stop string), or empty while it continues.
    """

    text: str = ""
    num_new_tokens: int = 0
    stop_reason: str = ""


class TextGenerator:
    """A model, its tokenizer and the options.

    Raises:
        CheckpointError: The model has fewer ids than the tokenizer.
        ConfigError: The model cannot generate in the precision, or by the CUDA graphs, asked for.
    """

    def __init__(self, model: MambaLM, tokenizer: Tokenizer, options: TextOptions) -> None:
        if tokenizer.vocab_size > model.config.vocab_size:
            raise CheckpointError(
                f"the tokenizer has {tokenizer.vocab_size:,} ids, but the model only "
                f"{model.config.vocab_size:,}; name the tokenizer that the model was trained with: "
                "tokenizer_file=<tokenizer.json or hub id>"
            )
        wanted = options.tokens
        self._decoder = make_decoder(model, wanted.product_dtype, wanted.cuda_graph)
        self._tokenizer, self._options = tokenizer, options
        self._vocabulary = Vocabulary(tokenizer.vocab_size, tokenizer.eod_id)

    def start(self, prompts: Sequence[str], seeds: Sequence[int]) -> "TextRun":
        """Start to continue prompts together, one seed for each; the run before must have ended.

        What a row gets depends on its prompt and seed, not on the other rows.
        """
        ids = self._tokenizer.encode_batch(prompts)
        if self._options.starts_document:
            ids = [[self._tokenizer.eod_id, *each] for each in ids]
        options, decode = self._options, self._tokenizer.decode
        generation = Generation(self._decoder, ids, options.tokens, self._vocabulary, seeds)
        return TextRun(generation, [TextStream(decode, options.stop, each[-1:]) for each in ids])


class TextRun:
    """Texts that are being continued together.

    Attributes:
        completions: What there is so far, in the order of the prompts.
    """

    def __init__(self, generation: Generation, streams: Sequence[TextStream]) -> None:
        self._generation, self._streams = generation, streams
        self.completions = [Completion() for _ in streams]

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Yield a row and what was added to its text (perhaps nothing), for every new token."""
        while not self._generation.is_finished:
            new_ids = self._generation.advance()
            for row, completion in enumerate(self.completions):
                if not completion.stop_reason:
                    yield row, self._add(row, new_ids.get(row))

    def _add(self, row: int, token: int | None) -> str:
        stream, completion = self._streams[row], self.completions[row]
        piece = ""
        if token is not None:
            completion.num_new_tokens += 1
            piece = stream.push(token)
        if stream.is_stopped:
            self._generation.stop(row, "stop")
        if row in self._generation.reasons:
            piece += stream.finish()
            completion.stop_reason = "stop" if stream.is_stopped else self._generation.reasons[row]
        completion.text += piece
        return piece
