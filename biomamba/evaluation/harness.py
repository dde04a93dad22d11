"""Any task of lm-evaluation-harness on our checkpoints, as its model `biomamba`.

    python -m biomamba.evaluation.harness --model biomamba \
        --model_args checkpoint=runs/x/model --tasks hellaswag,piqa --output_path runs/x/harness

The options are those of `lm_eval`. Texts are encoded, cut and scored as by its model `hf`, so the
figures compare with published ones: without `add_bos_token=true` nothing is before a text,
although our documents start with their end-of-document token, and texts of more than `max_length`
tokens are cut on the left or, for perplexities, scored in windows.
Source: lm_eval/models/huggingface.py of lm-eval 0.4.13.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import torch

from biomamba.config.cli import USER_ERROR_CODE
from biomamba.inference.text_generation import TextRun, TextStream, find_tokenizer
from biomamba.model.backends.auto import AutoScan
from biomamba.model.checkpoint import load_pretrained
from biomamba.model.cuda_graphs import make_decoder
from biomamba.model.decoder import Decoder
from biomamba.model.generation import Generation, GenerationOptions, Vocabulary
from biomamba.runtime.errors import BioMambaError, ConfigError, import_optional
from biomamba.runtime.output import keep_going_without_reader

MODEL_NAME = "biomamba"
_POSITIONS_AT_ONCE = 256  # bounds the memory of their probabilities
_DEFAULT_NEW_TOKENS = 256
_LENGTHS = ("max_gen_toks", "max_new_tokens")
_GREEDY = {"do_sample": False, "num_beams": 1, "temperature": 0.0, "top_p": 1.0}


class HarnessAnswers:
    """The methods of a model of the harness; a request holds its texts in `args`.

    Args:
        checkpoint: Folder or hub id of one of our models.
        tokenizer_file: Where no tokenizer.json is beside it.
        max_length: Tokens that are read at most.
        add_bos_token: Whether the end-of-document token is before every text, as in training.
        batch_size: Texts that pass at once.
        device: Of torch; the CPU where there is no GPU, which the harness names by default.

    Raises:
        BioMambaError: The checkpoint or its tokenizer is missing, or a value is out of range.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        tokenizer_file: str | None = None,
        max_length: int = 2_048,
        add_bos_token: bool = False,
        batch_size: int | str = 8,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self._device = torch.device((device or "cuda") if torch.cuda.is_available() else "cpu")
        self._batch_size = _positive("batch_size", batch_size)
        self._max_length = _positive("max_length", max_length)
        self._add_bos_token = add_bos_token
        self._tokenizer = find_tokenizer(checkpoint, tokenizer_file)
        self._model = load_pretrained(checkpoint, AutoScan()).to(self._device).eval()
        self._eod: int = self._tokenizer.eod_id

    @cached_property
    def _decoder(self) -> Decoder:
        return make_decoder(self._model)

    def loglikelihood(
        self,
        requests: Sequence[Any],
        disable_tqdm: bool = False,  # noqa: ARG002 - of the harness
    ) -> list[tuple[float, bool]]:
        """Return log-probability, and whether greedy decoding gives it, of (context, text)."""
        return self._score([self._pair(*request.args) for request in requests])

    def loglikelihood_rolling(
        self,
        requests: Sequence[Any],
        disable_tqdm: bool = False,  # noqa: ARG002 - of the harness
    ) -> list[float]:
        """Return the log-probability of each whole text, every token after all that fits."""
        pairs, owner = list[tuple[list[int], list[int]]](), list[int]()
        for number, request in enumerate(requests):
            ids = self._tokenizer.encode(request.args[0])
            for begin in range(0, len(ids), self._max_length):
                window = ids[begin : begin + self._max_length]
                end = begin + len(window)
                before = ids[end - self._max_length - 1 : begin] if begin else [self._eod]
                pairs.append((before, window))
                owner.append(number)
        totals = [0.0] * len(requests)
        for number, (value, _) in zip(owner, self._score(pairs), strict=True):
            totals[number] += value
        return totals

    def generate_until(
        self,
        requests: Sequence[Any],
        disable_tqdm: bool = False,  # noqa: ARG002 - of the harness
    ) -> list[str]:
        """Return what follows each (context, settings), up to a text of `until`.

        Raises:
            ConfigError: The settings ask for anything but the greedy text.
        """
        found: dict[int, str] = {}
        alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(_greedy_settings(request.args[1]), []).append(number)
        for (num_new, stop), numbers in alike.items():
            if num_new >= self._max_length:
                raise ConfigError(
                    f"{num_new} new tokens leave no room for a context: max_length="
                    f"{self._max_length}; raise it in --model_args"
                )
            contexts = {
                n: self._begun(self._tokenizer.encode(requests[n].args[0]))[
                    num_new - self._max_length :
                ]
                for n in numbers
            }
            order = sorted(numbers, key=lambda n: (-len(contexts[n]), n))
            for begin in range(0, len(order), self._batch_size):
                batch = order[begin : begin + self._batch_size]
                texts = self._continue([contexts[n] for n in batch], num_new, stop)
                found |= dict(zip(batch, texts, strict=True))
        return [found[n] for n in range(len(requests))]

    def _begun(self, ids: list[int]) -> list[int]:
        """Return ids after what starts a text; there is always something."""
        return [self._eod, *ids] if self._add_bos_token or not ids else ids

    def _pair(self, context: str, text: str) -> tuple[list[int], list[int]]:
        """Encode both together; spaces at the end of the context belong to the text."""
        kept = context.rstrip()
        text, context = context[len(kept) :] + text, kept
        before = self._tokenizer.encode(context)
        return self._begun(before), self._tokenizer.encode(context + text)[len(before) :]

    @torch.inference_mode()
    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        found: dict[int, tuple[float, bool]] = {}
        order = sorted(range(len(pairs)), key=lambda n: (-sum(map(len, pairs[n])), n))
        for begin in range(0, len(order), self._batch_size):
            batch = order[begin : begin + self._batch_size]
            found |= dict(zip(batch, self._scores([pairs[n] for n in batch]), strict=True))
        return [found[n] for n in range(len(pairs))]

    def _scores(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[tuple[float, bool]]:
        rows = [[*before, *ids][-self._max_length - 1 :] for before, ids in pairs]
        longest = max(len(row) for row in rows) - 1
        # Filling is on the right, where no position that is scored can see it.
        filled = [[*row[:-1], *[self._eod] * (longest + 1 - len(row))] for row in rows]
        hidden, _ = self._model.hidden(
            torch.tensor(filled, device=self._device), keeps_states=False
        )
        for row, mine, (_, ids) in zip(rows, hidden, pairs, strict=True):
            num = min(len(ids), len(row) - 1)
            value, is_greedy = 0.0, True
            for begin in range(len(row) - 1 - num, len(row) - 1, _POSITIONS_AT_ONCE):
                here = slice(begin, min(begin + _POSITIONS_AT_ONCE, len(row) - 1))
                targets = torch.tensor(row[here.start + 1 : here.stop + 1], device=self._device)
                logits = self._model.logits(mine[here])
                chosen = logits.double().log_softmax(-1).gather(1, targets.unsqueeze(1))
                value += float(chosen.sum())
                is_greedy &= bool((logits.argmax(-1) == targets).all())
            yield value, is_greedy

    def _continue(
        self, contexts: Sequence[list[int]], num_new: int, stop: Sequence[str]
    ) -> list[str]:
        generation = Generation(
            self._decoder,
            contexts,
            GenerationOptions(max_new_tokens=num_new),
            Vocabulary(self._tokenizer.vocab_size, self._eod),
            [0] * len(contexts),  # greedy: nothing is drawn
        )
        decode = self._tokenizer.decode
        run = TextRun(generation, [TextStream(decode, stop, ids[-1:]) for ids in contexts])
        for _ in run:
            pass
        return [completion.text for completion in run.completions]


def _positive(name: str, value: int | str) -> int:
    if not str(value).isdecimal() or int(value) < 1:
        raise ConfigError(f"{name}={value}: must be a whole number of at least 1")
    return int(value)


def _greedy_settings(settings: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """Return the number of new tokens and the stop texts.

    Raises:
        ConfigError: Anything but the greedy text is asked for.
    """
    rest = dict(settings)
    until = rest.pop("until", None) or []
    lengths = [rest.pop(name) for name in _LENGTHS if name in rest]
    samples = rest.get("do_sample", False)
    # Without sampling a temperature has no effect, whatever a task writes there.
    ignored = () if samples else ("temperature", "top_p", "top_k")
    odd = {
        name: value
        for name, value in rest.items()
        if name not in ignored and value != _GREEDY.get(name)
    }
    if odd:
        raise ConfigError(f"generation settings {odd}: the model {MODEL_NAME} is greedy")
    stop = [until] if isinstance(until, str) else until
    return int(lengths[0]) if lengths else _DEFAULT_NEW_TOKENS, tuple(text for text in stop if text)


def register() -> type:
    """Make the model known to the harness and return its class.

    Raises:
        MissingDependencyError: The harness is not installed.
    """
    purpose, install = "biomamba.evaluation.harness", "pip install 'biomamba[harness]'"
    base = import_optional("lm_eval.api.model", purpose, install).LM
    return _registered(base, import_optional("lm_eval.api.registry", purpose, install))


@cache
def _registered(base: type, registry: Any) -> type:
    made = type("BioMambaHarness", (HarnessAnswers, base), {"__doc__": HarnessAnswers.__doc__})
    registry.register_model(MODEL_NAME)(made)
    return made


def main() -> None:
    """Run the command line of the harness, with our model among its own."""
    keep_going_without_reader()
    try:
        register()
        import_optional(
            "lm_eval.__main__", "the command line", "pip install lm-eval"
        ).cli_evaluate()
    except BioMambaError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        sys.exit(USER_ERROR_CODE)


if __name__ == "__main__":
    main()
