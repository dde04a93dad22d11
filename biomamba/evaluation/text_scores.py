"""Score the documents of token stores as texts, with a model that has another tokenizer.

The tokens of a store are decoded and encoded anew. As with our models each document is scored
whole, with what ends a text, in windows without overlap; the first one begins as texts of the model
do, a later one with the token before it (behind the mark that the tokenizer puts before any text).
Tokens are those of the model, so a figure per token would not compare; bits per byte do: the same
texts, whose bytes were counted when the store was made.

A tokenizer that cannot give a text back (unknown characters, lower case, lost spaces) codes a
simpler text, in too few bits. Such documents are counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from biomamba.data.token_split import TokenSplit
from biomamba.data.tokenizer_folder import load_tokenizer
from biomamba.evaluation.models.causal import TransformersCausal
from biomamba.evaluation.models.rows import Row
from biomamba.evaluation.perplexity import DocumentScores
from biomamba.runtime.errors import ConfigError, DataError

_DOCUMENTS_AT_ONCE = 64


@dataclass(frozen=True)
class TextScores:
    """Scores of documents, and how many of them the tokenizer could not give back."""

    scores: DocumentScores
    num_lossy: int


class StoredTexts:
    """The documents of stores as texts.

    Raises:
        DataError: The tokenizer beside a store is missing or not the one that it was made with.
    """

    def __init__(self, documents: TokenSplit, store: str, fingerprint: str) -> None:
        folder = Path(store).parent
        self._documents, self._tokenizer = documents, load_tokenizer(folder)
        if self._tokenizer.fingerprint != fingerprint:
            raise DataError(f"the tokenizer in {folder} is not the one that {store} was made with")

    @property
    def num_bytes(self) -> NDArray[np.int64]:
        """(documents,) UTF-8 bytes of each document."""
        return self._documents.num_bytes

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, document: int) -> str:
        return self._tokenizer.decode(self._documents.tokens(document)[:-1].tolist())


def score_texts(
    model: TransformersCausal,
    texts: StoredTexts,
    *,
    window_tokens: int,
    description: str | None = None,
) -> TextScores:
    """Return the scores of texts; `window_tokens` are of the model, whose tokens are counted.

    Raises:
        ConfigError: The model cannot read such a window.
    """
    check_window(model, window_tokens)
    begins: Sequence[int] = range(0, len(texts), _DOCUMENTS_AT_ONCE)
    shown = track(begins, description, console=Console(stderr=True)) if description else begins
    nll, num_tokens, num_lossy = list[float](), list[int](), 0
    for begin in shown:
        some = [texts[n] for n in range(begin, min(begin + _DOCUMENTS_AT_ONCE, len(texts)))]
        encoded = model.tokenizer.encode_batch(some)
        decoded = [model.tokenizer.decode(ids) for ids in encoded]
        num_lossy += sum(a.strip() != b.strip() for a, b in zip(some, decoded, strict=True))
        ends = [] if model.eos_id is None else [model.eos_id]
        documents = [[*ids, *ends] for ids in encoded]
        nll += _nll(model, documents, window_tokens)
        num_tokens += [len(ids) for ids in documents]
    counts = np.array(num_tokens, dtype=np.int64)
    return TextScores(DocumentScores(np.array(nll), counts, texts.num_bytes), num_lossy)


def check_window(model: TransformersCausal, window_tokens: int) -> None:
    """Raise ConfigError if a model cannot read such a window behind what stands before it."""
    if model.max_tokens is None:
        return
    before = max(len(model.first_ids), len(model.tokenizer.first_ids) + 1)
    # The last token of a window is not read.
    most = model.max_tokens + len(model.first_ids) - before + 1
    if window_tokens > most:
        raise ConfigError(
            f"evaluation.seq_len={window_tokens}: {model.label} ({model.checkpoint}) reads windows "
            f"of at most {most} tokens; lower it, for all models that are compared"
        )


def _nll(
    model: TransformersCausal, documents: Sequence[Sequence[int]], window_tokens: int
) -> list[float]:
    """Return the nll of each document, in nats."""
    rows, owner = list[Row](), list[int]()
    for number, ids in enumerate(documents):
        for begin in range(0, len(ids), window_tokens):
            window = list(ids[begin : begin + window_tokens])
            later = [*model.tokenizer.first_ids, ids[begin - 1]]
            before = later if begin else list(model.first_ids)
            wanted = [(len(before) - 1 + n, token) for n, token in enumerate(window)]
            rows.append(Row((), [*before, *window[:-1]], wanted))
            owner.append(number)
    totals = [0.0] * len(documents)
    for number, values in zip(owner, model.log_probabilities(rows), strict=True):
        totals[number] -= sum(values)
    return totals
