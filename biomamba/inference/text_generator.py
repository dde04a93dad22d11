"""Continue texts with a model and its tokenizer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from biomamba.data.tokenizer import Tokenizer
from biomamba.inference.text_stream import TextStream
from biomamba.model.generation import Generation, GenerationOptions, Vocabulary
from biomamba.model.graphed_decoder import make_decoder
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import CheckpointError


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
            "stop" (a stop string), or empty while it goes on.
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
        """Begin to continue prompts together, one seed for each; the run before must have ended.

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
