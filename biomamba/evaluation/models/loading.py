"""Models of transformers: loading, tokenizer, batches of scored rows, generation."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from biomamba.evaluation.answer_model import ScoreRequest, Written
from biomamba.model.formats.detect import CONFIG, describe_folder, locate
from biomamba.model.formats.tensors import WeightFiles, find_weights
from biomamba.runtime.errors import CheckpointError, ConfigError, import_optional
from biomamba.runtime.input_files import FLAG, MIB, TEXT, Each, read_json
from biomamba.tasks.task import WriteText

# -------------------------------------------------------------------------------------------------
# Find and load checkpoints of transformers: files only, no code of theirs.
#
# Code that a repository brings along is never run, and weights are read from safetensors or, with
# `weights_only`, from torch's files.
# -------------------------------------------------------------------------------------------------

CAUSAL, SEQUENCE_TO_SEQUENCE, EXTRACTIVE = "causal", "sequence_to_sequence", "extractive"
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
TOKENIZER_FILES = (
    *_VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_BESIDE = (*TOKENIZER_FILES, "generation_config.json")
_SHOWN = 5


def import_transformers() -> ModuleType:
    """Return the module, quiet about what is said here.

    Raises:
        MissingDependencyError: It is not installed.
    """
    module = import_optional(
        "transformers", "a baseline (hf:...)", "pip install 'biomamba[baselines]'"
    )
    module.utils.logging.disable_progress_bar()
    return module


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint in the layout of transformers.

    Attributes:
        source: How the user named it.
        folder: Where it is.
        config: The content of its config.json.
    """

    source: str
    folder: Path
    config: Mapping[str, Any]

    @classmethod
    def find(cls, source: str) -> "Pretrained":
        """Find a folder or a repository of the hub (`owner/name` or `owner/name@revision`).

        Raises:
            CheckpointError: There is none, or it has no readable config.json.
        """
        folder = locate(source, _BESIDE)
        path = folder / CONFIG
        try:
            shape = {"architectures": Each(TEXT, is_list=True), "is_encoder_decoder": FLAG}
            config = read_json(path, shape, max_bytes=MIB, error=CheckpointError)
        except FileNotFoundError:
            known = describe_folder(folder) or f"{CONFIG} is missing"
            raise CheckpointError(f"hf:{source}: {known}") from None
        return cls(source, folder, config)

    @property
    def kind(self) -> str:
        """What the architecture that config.json names is good for.

        Raises:
            CheckpointError: It neither continues texts nor marks answers.
        """
        names = list(self.config.get("architectures") or [])
        if any(name.endswith("ForQuestionAnswering") for name in names):
            return EXTRACTIVE
        if self.config.get("is_encoder_decoder"):
            return SEQUENCE_TO_SEQUENCE
        known = import_transformers().models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if set(names) & set(known.values()):
            return CAUSAL
        raise CheckpointError(
            f"hf:{self.source}: config.json names {names or 'no architecture'}; allowed are models "
            "that continue texts (...ForCausalLM, ...LMHeadModel), encoder-decoders "
            "(...ForConditionalGeneration) and extractive readers (...ForQuestionAnswering). A "
            "bare encoder has to be fine-tuned for one of these first"
        )

    @property
    def files(self) -> WeightFiles:
        """The weights.

        Raises:
            CheckpointError: There are none.
        """
        found = find_weights(self.folder)
        if found is None:
            raise CheckpointError(f"{self.folder}: holds no weights (model.safetensors)")
        return found

    def sha256(self) -> str:
        """Return the sha256 over the weights."""
        return self.files.digest()

    def load_model(self, auto_class: str, device: str) -> Any:
        """Return the model in float32, in evaluation mode.

        Raises:
            CheckpointError: Its code is not that of transformers, the files are damaged, or
                weights are missing that would be drawn at random.
        """
        _ = self.files
        try:
            model, info = getattr(import_transformers(), auto_class).from_pretrained(
                str(self.folder),
                dtype=torch.float32,
                trust_remote_code=False,
                weights_only=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # of many kinds, and all of them about these files
            raise CheckpointError(
                f"hf:{self.source}: transformers cannot load it: {error}. Code that a repository "
                "brings along is never run, and files that hold more than tensors are not read"
            ) from error
        drawn = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
        if drawn:
            more = f" and {len(drawn) - _SHOWN} more" if len(drawn) > _SHOWN else ""
            raise CheckpointError(
                f"hf:{self.source}: the weights lack {', '.join(drawn[:_SHOWN])}{more}, which "
                "would be drawn at random; give a checkpoint that was trained for this task"
            )
        return model.to(device).eval()

    def load_tokenizer(self) -> Any:
        """Return the tokenizer.

        Raises:
            CheckpointError: There is none that transformers can load.
        """
        # transformers makes an empty one where there is none.
        if not any((self.folder / name).is_file() for name in _VOCABULARIES):
            raise CheckpointError(
                f"hf:{self.source}: no tokenizer is beside the weights; copy its files there "
                f"({', '.join(_VOCABULARIES)}: one of them is needed)"
            )
        try:
            return import_transformers().AutoTokenizer.from_pretrained(
                str(self.folder), trust_remote_code=False, local_files_only=True
            )
        except Exception as error:  # of many kinds, and all of them about these files
            raise CheckpointError(
                f"hf:{self.source}: transformers cannot load its tokenizer: {error}"
            ) from error


# -------------------------------------------------------------------------------------------------
# The tokenizer of another model, behind the interface of ours.
#
# An answer is scored as the tokenizer continues the prompt: prompt and answer are encoded together,
# and what this encoding shares with that of the prompt alone is the prompt. So no space is doubled
# or lost where a tokenizer marks the beginning of words (sentencepiece), and a token that spans the
# boundary belongs to the answer. Texts never become special tokens.
# -------------------------------------------------------------------------------------------------

_PROBE = "a"


class ForeignTokenizer:
    """A tokenizer of transformers.

    Attributes:
        backend: The tokenizer itself.
        first_ids: What it puts before a text, as the beginning of a sentence; perhaps nothing.
        last_ids: What it puts after a text.
        eos_id: What ends a text; None if it has none.
    """

    def __init__(self, checkpoint: Pretrained) -> None:
        self.backend: Any = checkpoint.load_tokenizer()
        self.fingerprint = _fingerprint(self.backend, checkpoint.folder)
        self.vocab_size = len(self.backend)
        self.eos_id: int | None = self.backend.eos_token_id
        # Lengths are checked against the model; the limit of a tokenizer is a guess, and only logs.
        self.backend.model_max_length = 10**9
        plain = self._encode([_PROBE])[0]
        whole = self._encode([_PROBE], add_special_tokens=True)[0]
        place = _find(plain, whole)
        if not plain or place is None:
            raise CheckpointError(
                f"hf:{checkpoint.source}: its tokenizer encodes {_PROBE!r} as {plain}, with "
                f"special tokens as {whole}: the one is not part of the other, so that prompts "
                "cannot be put together"
            )
        self.first_ids, self.last_ids = whole[:place], whole[place + len(plain) :]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts without special tokens."""
        return self._encode(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        text: str = self.backend.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def join(self, prompt: str, answers: Sequence[str]) -> ScoreRequest:
        """Return a prompt and its answers as they are written one after the other."""
        prompt_ids = self._encode([prompt])[0]
        joined = self._encode([prompt + answer for answer in answers])
        shared = min((_common(prompt_ids, ids) for ids in joined), default=len(prompt_ids))
        return ScoreRequest(prompt_ids[:shared], [ids[shared:] for ids in joined])

    def _encode(self, texts: Sequence[str], *, add_special_tokens: bool = False) -> list[list[int]]:
        if not texts:
            return []
        found = self.backend(
            list(texts),
            add_special_tokens=add_special_tokens,
            split_special_tokens=True,
            padding=False,
            truncation=False,
        )
        ids: list[list[int]] = found["input_ids"]
        return ids


class EncoderDecoderTokenizer(ForeignTokenizer):
    """The tokenizer of a model that reads the prompt and then starts the answer afresh."""

    def join(self, prompt: str, answers: Sequence[str]) -> ScoreRequest:
        """Return a prompt, and the answers without the space that would part them from it."""
        return ScoreRequest(
            self._encode([prompt])[0], self._encode([answer.strip() for answer in answers])
        )


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the beginning that two sequences share."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))


def _find(part: Sequence[int], whole: Sequence[int]) -> int | None:
    places = range(len(whole) - len(part) + 1)
    return next((n for n in places if list(whole[n : n + len(part)]) == list(part)), None)


def _fingerprint(backend: Any, folder: Path) -> str:
    """Return a sha256 over the files of a tokenizer and its class."""
    digest = hashlib.sha256(type(backend).__name__.encode())
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            digest.update(name.encode())
            digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------------
# Rows of ids that pass through a model together, and what is looked up after their positions.
# -------------------------------------------------------------------------------------------------

_POSITIONS_AT_ONCE = 256  # bounds the memory of their probabilities


@dataclass
class Row:
    """Ids to be read, and ids whose log-probabilities are wanted.

    Attributes:
        prompt: What an encoder reads; empty for models without one.
        ids: What the decoder reads.
        wanted: Pairs: index of a position, and the id whose log-probability after it is wanted.
    """

    prompt: Sequence[int]
    ids: list[int]
    wanted: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where the log-probabilities of an answer are: a row, and a part of what it wants."""

    row: int
    begin: int
    end: int


def answer_rows(
    prompt: Sequence[int], before: Sequence[int], answers: Sequence[Sequence[int]], first_row: int
) -> tuple[list[Row], list[Place]]:
    """Return as few rows as the answers need, and the place of each answer.

    Of an answer all but the last id are read. Answers of one id share a row, and so does one that
    another one starts with. The answers are after `before`; the rows count from `first_row`.

    Raises:
        ValueError: An answer has no ids.
    """
    if not all(answers):
        raise ValueError("an answer has no ids, so it has no probability")
    read = sorted({tuple(answer[:-1]) for answer in answers}, key=lambda ids: (-len(ids), ids))
    kept: list[tuple[int, ...]] = []
    for ids in read:
        if not any(longer[: len(ids)] == ids for longer in kept):
            kept.append(ids)
    rows = [Row(prompt, [*before, *ids]) for ids in kept]
    places = []
    for answer in answers:
        ids = tuple(answer[:-1])
        index = next(n for n, longer in enumerate(kept) if longer[: len(ids)] == ids)
        wanted = rows[index].wanted
        begin, behind = len(wanted), len(before) - 1
        wanted += [(behind + n, token) for n, token in enumerate(answer)]
        places.append(Place(first_row + index, begin, len(wanted)))
    return rows, places


def request_rows(
    requests: Sequence[ScoreRequest], before: Sequence[int], *, has_encoder: bool
) -> tuple[list[Row], list[list[Place]]]:
    """Return the rows of requests and the places of their answers.

    `before` are the ids with which every text starts, in the decoder.
    """
    rows: list[Row] = []
    places = []
    for request in requests:
        prompt = list(request.prompt_ids)
        if has_encoder:
            found, mine = answer_rows(prompt, before, request.answers, len(rows))
        else:
            found, mine = answer_rows((), [*before, *prompt], request.answers, len(rows))
        rows += found
        places.append(mine)
    return rows, places


def sums_of(
    values: Sequence[Sequence[float]], places: Sequence[Sequence[Place]]
) -> list[list[float]]:
    """Return the sum of every place, of the values of all rows."""
    return [[sum(values[at.row][at.begin : at.end]) for at in mine] for mine in places]


def batches_by_length(rows: Sequence[Row], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of rows of similar lengths, the longest first."""
    order = sorted(range(len(rows)), key=lambda n: (-len(rows[n].prompt), -len(rows[n].ids), n))
    for begin in range(0, len(order), batch_size):
        yield order[begin : begin + batch_size]


def fill_right(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask (rows, longest), filled with zeros on the right."""
    longest = max(len(ids) for ids in sequences)
    filled = [[*ids, *[0] * (longest - len(ids))] for ids in sequences]
    mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences]
    return torch.tensor(filled, device=device), torch.tensor(mask, device=device)


def fill_left(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask (rows, longest), filled with zeros on the left."""
    ids, mask = fill_right([list(reversed(each)) for each in sequences], device)
    return ids.flip(1), mask.flip(1)


def look_up(logits: Tensor, positions: Sequence[int], rows: Sequence[Row]) -> list[list[float]]:
    """Return the wanted log-probabilities of rows.

    logits are (rows, positions, vocab), of the positions that are named only.
    """
    column = {position: n for n, position in enumerate(positions)}
    found = []
    for row, mine in zip(rows, logits, strict=True):
        values = list[float]()
        for begin in range(0, len(row.wanted), _POSITIONS_AT_ONCE):
            wanted = row.wanted[begin : begin + _POSITIONS_AT_ONCE]
            at = torch.tensor([column[position] for position, _ in wanted], device=mine.device)
            tokens = torch.tensor([token for _, token in wanted], device=mine.device)
            log_probabilities = mine[at].double().log_softmax(-1)
            values += log_probabilities.gather(1, tokens.unsqueeze(1)).squeeze(1).tolist()
        found.append(values)
    return found


def wanted_positions(rows: Sequence[Row]) -> list[int]:
    """Return the positions after which anything is wanted in any of the rows."""
    return sorted({position for row in rows for position, _ in row.wanted})


# -------------------------------------------------------------------------------------------------
# Continue rows with `generate` of transformers, under the rules of our own models.
#
# Greedy for one candidate; for several a beam of that width, ranked by log-probability per id. What
# a checkpoint says about generation (sampling, penalties, minimal lengths) does not count, so that
# all models write alike; ids without a text are never chosen.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Writer:
    """A model that continues rows.

    Attributes:
        eos_ids: Ids that end a text; perhaps none.
    """

    model: Any
    tokenizer: ForeignTokenizer
    eos_ids: Sequence[int]

    @torch.inference_mode()
    def write(
        self, inputs: Mapping[str, Tensor], last_ids: Tensor, options: WriteText
    ) -> list[Written]:
        """Return what follows each row.

        Args:
            inputs: Arguments of `generate` that hold the rows.
            last_ids: (rows, length); what the decoder reads before the first new id.
            options: How much, and where to stop.

        Raises:
            ConfigError: transformers cannot search with this model.
        """
        begin, width = last_ids.shape[1], options.num_candidates
        criteria = [self._stopping(begin, options.stop)] if options.stop else None
        config = self._config(options)
        try:
            found = self.model.generate(
                **inputs, generation_config=config, stopping_criteria=criteria
            )
        except ValueError as error:
            raise ConfigError(
                f"transformers cannot write {width} answers with this model: {error}"
            ) from error
        before = last_ids[:, -1:].tolist()
        texts = [
            self._read(ids[begin:], before[n // width], options.stop)
            for n, ids in enumerate(found.tolist())
        ]
        return [_merged(texts[first : first + width]) for first in range(0, len(texts), width)]

    def _config(self, options: WriteText) -> Any:
        eos, pad = list(self.eos_ids) or None, next(iter(self.eos_ids), 0)
        make = import_transformers().GenerationConfig
        # `generate` fills gaps from the model's own; the ids of the texts themselves are given.
        self.model.generation_config = make(eos_token_id=eos, pad_token_id=pad)
        textless = range(self.tokenizer.vocab_size, self.model.config.vocab_size)
        return make(
            max_new_tokens=options.max_new_tokens,
            do_sample=False,
            num_beams=options.num_candidates,
            num_return_sequences=options.num_candidates,
            length_penalty=1.0,
            early_stopping=False,
            eos_token_id=eos,
            pad_token_id=pad,
            decoder_start_token_id=getattr(self.model.config, "decoder_start_token_id", None),
            suppress_tokens=list(textless) or None,
        )

    def _stopping(self, begin: int, stop: Sequence[str]) -> Callable[..., Tensor]:
        def is_stopped(ids: Tensor, *_: object, **__: object) -> Tensor:
            rows = ids[:, begin - 1 :].tolist()
            texts = [self._text(row[1:], row[:1]) for row in rows]
            found = [any(end in text for end in stop) for text in texts]
            return torch.tensor(found, device=ids.device)

        return is_stopped

    def _read(
        self, ids: Sequence[int], before: Sequence[int], stop: Sequence[str]
    ) -> tuple[str, str]:
        """Return the text of new ids up to its end, and why it ended."""
        last = next((n for n, token in enumerate(ids) if token in self.eos_ids or token < 0), None)
        text = self._text(ids[:last], before)
        places = [text.find(end) for end in stop if end in text]
        if places:
            return text[: min(places)], "stop"
        return text, "length" if last is None else "eos"

    def _text(self, ids: Sequence[int], before: Sequence[int]) -> str:
        """Return the text of ids after another one, which tells whether it starts with a space."""
        decode = self.tokenizer.decode
        head, whole = decode(before), decode([*before, *ids])
        return whole[len(head) :] if whole.startswith(head) else decode(ids)


def _merged(texts: Sequence[tuple[str, str]]) -> Written:
    """Return the different texts, best first."""
    found: dict[str, str] = {}
    for text, _ in texts:
        found.setdefault(text.strip(), text)
    return Written(list(found.values()), texts[0][1])
