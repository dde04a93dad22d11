"""The data of a pretraining run read straight from the corpora, without token stores.

Exact and elastic like the stores, and slower: the texts are read and tokenized in every run and
every epoch, and a source on the network must be there while the model trains. Each document is
judged alone: rows with the same id or the same text are all trained on, and near-duplicates of a
validation document are not kept apart, because that needs the whole set. Prepare stores where it
matters.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch.distributed
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import DataLoader

from biomamba.data.batches import Batch, DocumentRows
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.corpora.corpus import Corpus
from biomamba.data.datamodule import Exposure, TrainingData
from biomamba.data.document import Document, SplitRule
from biomamba.data.loader import WORKER_TIMEOUT_SECONDS
from biomamba.data.mixture import Mixture, TokenBudget
from biomamba.data.store.format import benchmark_files
from biomamba.data.store.reader import MemorySplit, content_fingerprint
from biomamba.data.streaming.readers import (
    Positions,
    ReaderSettings,
    Reading,
    StreamLoader,
    StreamPlan,
    endless_order,
    readers_of,
)
from biomamba.data.streaming.source import Admission, StreamedSource
from biomamba.data.tokenizer import Tokenizer, TokenizerSource
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_number, check_whole
from biomamba.runtime.ranks import is_rank_zero

# -------------------------------------------------------------------------------------------------
# Validation documents of a stream: the first that the split rule holds out, kept in memory.
# -------------------------------------------------------------------------------------------------


class DocumentsInMemory(MemorySplit):
    """Tokenized documents that are in no store.

    Args:
        documents: The documents.
        tokenizer: Encodes them.
    """

    def __init__(self, documents: Sequence[Document], tokenizer: Tokenizer) -> None:
        encoded = tokenizer.encode_batch([document.text for document in documents])
        super().__init__(
            [[*ids, tokenizer.eod_id] for ids in encoded],
            tokenizer.eod_id,
            ids=[document.id for document in documents],
            num_bytes=[len(document.text.encode("utf-8")) for document in documents],
        )


def held_out_documents(
    source: StreamedSource, admission: Admission, max_documents: int, max_bad_fraction: float
) -> list[Document]:
    """Read the first validation documents of a source, in the order of its shards.

    Progress goes to stderr, of rank zero only.

    Raises:
        DataError: If a whole pass over the source finds none.
    """
    found: list[Document] = []
    with Progress(console=Console(stderr=True), disable=not is_rank_zero()) as progress:
        task = progress.add_task(f"validation documents of {source.name}", total=max_documents)
        for shard in source.shards:
            for _, document in shard.documents(max_bad_fraction):
                if admission.is_of("val", document):
                    found += admission.without_benchmarks([document])
                    progress.update(task, completed=len(found))
                if len(found) == max_documents:
                    return found
    if not found:
        raise DataError(
            f"source {source.name!r} has no validation documents; raise split.val_permille"
        )
    return found


# -------------------------------------------------------------------------------------------------
# The data of a pretraining run read straight from the corpora, without token stores.
# -------------------------------------------------------------------------------------------------

_NOTICE = (
    "documents are streamed and judged one by one: duplicates and near-duplicates are not removed; "
    "prepare token stores where that matters"
)


class StreamingDataModule(TrainingData):
    """Mix corpora into steps while they are read; validate on every source.

    Args:
        sources: Name of each source and the corpora pooled in it; the order numbers the sources.
        corpora: The corpora by name.
        tokenizer: Encodes the texts; one that must be trained first cannot be used.
        mixture: Shares of the sources; its keys are those of `sources`.
        split: Which documents are trained on and which are validated on.
        reading: How the corpora are read.
        budget: Size of the run.
        seed: Selects the order.
        max_val_documents: Documents per source to validate on, the first that are found.
        cleaning: Benchmarks and overlong documents, which are left out of all splits; nothing else
            can be found in a stream.
        max_repetition: Passes over a source that each reader may start; None for no limit.
        num_workers: Processes that read and tokenize on each rank, at most one for each of its
            readers; 0 reads in the main one.
        worker_timeout_seconds: When the run gives up a worker process that gives nothing, with an
            error that names it; None waits for ever.
    """

    def __init__(  # noqa: PLR0913 - one keyword per line of a data config
        self,
        *,
        sources: dict[str, list[str]],
        corpora: dict[str, Corpus],
        tokenizer: TokenizerSource,
        mixture: Mixture,
        split: SplitRule,
        reading: Reading,
        budget: TokenBudget,
        seed: int,
        cleaning: Cleaning,
        max_val_documents: int,
        max_repetition: int | None = None,
        num_workers: int = 0,
        worker_timeout_seconds: float | None = WORKER_TIMEOUT_SECONDS,
    ) -> None:
        check_number("data.worker_timeout_seconds", worker_timeout_seconds, above=0, optional=True)
        super().__init__(budget, sources, mixture)
        _check_names(sources, corpora)
        if max_val_documents < 1 or split.val_permille < 1:
            raise ConfigError(
                f"max_val_documents is {max_val_documents} and split.val_permille "
                f"{split.val_permille}; both must be 1 or more: every source is validated on"
            )
        check_whole("max_repetition", max_repetition, optional=True)
        check_whole("num_workers", num_workers, at_least=0)
        _check_readable(reading, budget, cleaning, tokenizer)
        self._corpora = corpora
        self._pools = sources
        self._tokenizer_source = tokenizer
        self._reading = reading
        self._cleaning = cleaning
        limit = cleaning.max_document_characters
        self._admission = Admission(split, cleaning.firewall, limit)
        self._seed = seed
        self._max_val_documents = max_val_documents
        self._max_repetition = max_repetition
        self._num_workers = num_workers
        self._worker_timeout_seconds = worker_timeout_seconds
        self._positions: dict[int, Positions] = {}
        self._loader: StreamLoader | None = None
        self._order = endless_order(mixture, self.source_names, budget, seed)

    @cached_property
    def plan(self) -> StreamPlan:
        """What the readers know; making it finds the raw shards."""
        sources = tuple(
            StreamedSource.open(name, index, self._pools[name], self._corpora)
            for index, name in enumerate(self.source_names)
        )
        settings = ReaderSettings(
            self._reading, self._admission, self._tokenizer, self._seed, self._max_repetition
        )
        return StreamPlan(sources, self._order, settings, self.budget)

    @cached_property
    def fingerprint(self) -> str:
        """Identify the stream of rows: equal fingerprints give equal steps."""
        return content_fingerprint(
            {
                "sources": {source.name: source.settings for source in self.plan.sources},
                "order": self.source_names,
                "tokenizer": self.tokenizer_fingerprint,
                "mixture": self.mixture.description(),
                "admission": self._admission.settings(),
                "readers": self._reading.num_readers,
                "block": self._reading.block_documents,
                "seed": self._seed,
                "seq_len": self.budget.seq_len,
                "tokens_per_step": self.budget.tokens_per_step,
            }
        )

    @property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the tokenizer."""
        return self._tokenizer.fingerprint

    @property
    def vocab_size(self) -> int:
        """Number of ids that a batch may hold."""
        return self._tokenizer.vocab_size

    @property
    def description(self) -> dict[str, Any]:
        """Return which benchmark files were kept out, for the record of the run."""
        return {"streamed": {"benchmark_files": benchmark_files(self._cleaning.settings())}}

    @property
    def store_folders(self) -> dict[str, list[str]]:
        """Nothing: there are no stores."""
        return {}

    @property
    def exposures(self) -> dict[str, Exposure]:
        """Nothing: nobody knows how much a stream holds."""
        return {}

    def setup(self, stage: str = "fit") -> None:  # noqa: ARG002 - all stages need the same
        """Find the raw shards and the validation documents; a second call does nothing."""
        _ = self._validation

    def train_dataloader(self) -> StreamLoader:
        """Load the steps of this rank after those that a checkpoint has consumed."""
        rank, world_size = self._place()
        self._loader = self.loader(rank=rank, world_size=world_size)
        return self._loader

    def loader(self, *, rank: int, world_size: int) -> StreamLoader:
        """Load the steps of any rank.

        Raises:
            ConfigError: If the ranks cannot share the rows of a step, or the readers.
        """
        self.budget.accumulation(world_size)
        readers = readers_of(rank, world_size, self.plan)
        return StreamLoader(
            self.plan,
            readers,
            self._positions,
            self._start_step,
            self._num_workers,
            self._worker_timeout_seconds,
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Load the validation documents of this rank, one loader per source in their order."""
        rank, world_size = self._place()
        return [rows.loader(rank=rank, world_size=world_size) for rows in self._validation]

    def save_tokenizer(self, path: Path) -> None:
        """Write the tokenizer beside a model."""
        self._tokenizer.save(path)

    def state_dict(self) -> dict[str, Any]:
        """Return the positions of all readers; equal on all ranks, which must call it together."""
        positions = self._all_positions()
        return super().state_dict() | {"readers": [positions[n] for n in sorted(positions)]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the steps of a checkpoint.

        Where another stream is allowed, the readers start again: the places of the one mean nothing
        in the other.

        Raises:
            DataError: If the checkpoint saw another stream or is beyond the budget.
        """
        super().load_state_dict(state_dict)
        is_same = state_dict["fingerprint"] == self.fingerprint
        self._positions = dict(enumerate(state_dict["readers"])) if is_same else {}

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._tokenizer_source.build(())

    @cached_property
    def _validation(self) -> list[DocumentRows]:
        if is_rank_zero():
            console = Console(stderr=True)
            for notice in [_NOTICE, *self._cleaning.notices()]:
                console.print(f"note: {notice}", markup=False, highlight=False, soft_wrap=True)
        return [self._held_out(source) for source in self.plan.sources]

    def _held_out(self, source: StreamedSource) -> DocumentRows:
        documents = held_out_documents(
            source, self._admission, self._max_val_documents, self._reading.max_bad_fraction
        )
        return DocumentRows(
            DocumentsInMemory(documents, self._tokenizer),
            seq_len=self.budget.seq_len,
            batch_size=self.budget.micro_batch_size,
            source_index=source.index,
        )

    def _all_positions(self) -> dict[int, Positions]:
        consumed = self.consumed_steps
        if self._loader is None or consumed == self._start_step:
            return self._positions
        own = self._loader.positions_after(consumed)
        if self._place()[1] == 1:
            return own
        gathered: list[dict[int, Positions] | None] = [None] * self._place()[1]
        torch.distributed.all_gather_object(gathered, own)
        return {number: found for part in gathered for number, found in (part or {}).items()}


def _check_names(sources: dict[str, list[str]], corpora: dict[str, Corpus]) -> None:
    named = [corpus for pool in sources.values() for corpus in pool]
    if sorted(named) != sorted(corpora):
        raise ConfigError(
            f"sources name the corpora {sorted(named)}, the config has {sorted(corpora)}; each "
            "must be named once"
        )


def _check_readable(
    reading: Reading, budget: TokenBudget, cleaning: Cleaning, tokenizer: TokenizerSource
) -> None:
    """Refuse what the readers cannot share and what a stream cannot do."""
    if budget.sequences_per_step % reading.num_readers:
        raise ConfigError(
            f"a step has {budget.sequences_per_step} rows (tokens_per_step / seq_len), no "
            f"multiple of num_readers = {reading.num_readers}; every reader gives equally many "
            "rows to a step"
        )
    if cleaning.exact_duplicates or cleaning.near_duplicates is not None:
        raise ConfigError(
            "a stream cannot find duplicates: set cleaning.exact_duplicates=false and "
            "cleaning.near_duplicates=null, as cleaning=stream does, or prepare token stores"
        )
    if tokenizer.needs_texts:
        raise ConfigError(
            "a stream needs a tokenizer that is ready: it cannot be trained on texts that are "
            "only read later; use a tokenizer.json, for example that of a prepared set"
        )
