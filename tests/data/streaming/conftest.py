"""Corpora in memory, read by virtual readers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from biomamba.data.cleaning.benchmark_filter import Firewall
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.corpora.corpus import Corpus
from biomamba.data.document import SplitRule
from biomamba.data.mixture import Mixture, TokenBudget
from biomamba.data.streaming.datamodule import StreamingDataModule
from biomamba.data.streaming.readers import ReaderSettings, Reading, StreamPlan, endless_order
from biomamba.data.streaming.source import Admission, StreamedSource
from biomamba.data.tokenizer import ByteLevel, Tokenizer

# 8 rows of 64 tokens to a step, 64 steps.
BUDGET = TokenBudget(max_tokens=64 * 512, tokens_per_step=512, seq_len=64, micro_batch_size=2)
WEIGHTS = {"short": 0.8, "long": 0.1, "mixed": 0.1}
LENGTHS = {"short": (1, 40), "long": (80, 400), "mixed": (1, 200)}
# Shards and documents of each: more shards than readers, fewer, and as many.
SIZES = {"short": (7, 40), "long": (2, 60), "mixed": (4, 25)}


@pytest.fixture
def corpora(make_corpus: Callable[..., Any]) -> dict[str, Corpus]:
    """Three corpora of very uneven document lengths."""
    generator = np.random.default_rng(0)
    found = {}
    for name, (num_shards, num_documents) in SIZES.items():
        texts = [
            [f"{name}{shard}-{i} " + "x" * int(length) for i, length in enumerate(lengths)]
            for shard, lengths in enumerate(
                generator.integers(*LENGTHS[name], size=(num_shards, num_documents))
            )
        ]
        found[name] = make_corpus(texts, options={"name": name})
    return found


@pytest.fixture
def make_plan(corpora: Mapping[str, Corpus], byte_tokenizer: Tokenizer) -> Callable[..., Any]:
    """Return make(**changes): a plan of four readers over the three corpora."""

    def _make(
        *,
        weights: Mapping[str, float] = WEIGHTS,
        budget: TokenBudget = BUDGET,
        seed: int = 1,
        rule: SplitRule | None = None,
        max_repetition: int | None = None,
        corpora: Mapping[str, Corpus] = corpora,
        **reading: Any,
    ) -> StreamPlan:
        options: dict[str, Any] = {"num_readers": 4, "block_documents": 8} | reading
        settings = ReaderSettings(
            Reading(**options),
            Admission(rule or SplitRule(200, 100), Firewall()),
            byte_tokenizer,
            seed,
            max_repetition,
        )
        sources = tuple(
            StreamedSource.open(name, index, [name], corpora) for index, name in enumerate(weights)
        )
        order = endless_order(Mixture(dict(weights), block_size=200), list(weights), budget, seed)
        return StreamPlan(sources, order, settings, budget)

    return _make


@pytest.fixture
def make_module(corpora: dict[str, Corpus]) -> Callable[..., StreamingDataModule]:
    """Return make(**changes): a datamodule of four readers over the three corpora."""

    def _make(**changes: Any) -> StreamingDataModule:
        options: dict[str, Any] = {
            "sources": {name: [name] for name in corpora},
            "corpora": corpora,
            "tokenizer": ByteLevel(),
            "mixture": Mixture(WEIGHTS, block_size=200),
            "cleaning": Cleaning(exact_duplicates=False),
            "split": SplitRule(val_permille=200, test_permille=100),
            "reading": Reading(num_readers=4, block_documents=8),
            "budget": BUDGET,
            "seed": 1,
            "max_val_documents": 5,
        }
        return StreamingDataModule(**(options | changes))

    return _make
