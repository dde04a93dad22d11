"""The data of a pretraining run: token stores in, an exact stream of steps out."""

from functools import cached_property
from pathlib import Path
from typing import Any

from biomamba.data.budget import TokenBudget
from biomamba.data.evaluation_rows import EvaluationRows
from biomamba.data.loader import WORKER_TIMEOUT_SECONDS
from biomamba.data.mixture import Mixture
from biomamba.data.packing import Packing
from biomamba.data.planned_data import PlannedData
from biomamba.data.store_facts import StoreFacts
from biomamba.data.store_reader import (
    VERIFY_MODES,
    OpenStore,
    check_compatible,
    content_fingerprint,
    open_stores,
    verify_stores,
)
from biomamba.data.token_split import TokenSplit
from biomamba.data.tokenizer_folder import load_tokenizer
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_whole


class PretrainDataModule(PlannedData):
    """Mix token stores into steps; validate on every source.

    Args:
        sources: Name of each source and the stores pooled in it; the order numbers the sources.
        mixture: Shares of the sources; its keys are those of `sources`.
        packing: Layout of the training rows.
        budget: Size of the run.
        seed: Selects the order of the rows.
        max_val_documents: Documents per source to validate on, those with the smallest keys; None
            for all.
        max_train_tokens: Tokens of some sources to train on: whole documents, those with the
            smallest keys, so that a smaller number gives a subset of what a larger one gives; None
            for all of every source.
        max_repetition: Refuse a run that passes over a source more often; None for no limit.
        num_workers: Processes that build batches; 0 builds them in the main one.
        worker_timeout_seconds: When the run gives up a worker process that gives nothing, with an
            error that names it; None waits for ever.
        verify: `full` compares the hash of every file before the run, `size` only its size.
    """

    def __init__(  # noqa: PLR0913 - one keyword per line of a data config
        self,
        *,
        sources: dict[str, list[str]],
        mixture: Mixture,
        packing: Packing,
        budget: TokenBudget,
        seed: int,
        max_val_documents: int | None = None,
        max_train_tokens: dict[str, int] | None = None,
        max_repetition: float | None = None,
        num_workers: int = 0,
        worker_timeout_seconds: float | None = WORKER_TIMEOUT_SECONDS,
        verify: str = "full",
    ) -> None:
        super().__init__(
            budget,
            sources,
            mixture,
            packing,
            seed=seed,
            max_repetition=max_repetition,
            num_workers=num_workers,
            worker_timeout_seconds=worker_timeout_seconds,
        )
        if verify not in VERIFY_MODES:
            raise ConfigError(f"verify is {verify!r}; allowed: {', '.join(VERIFY_MODES)}")
        check_whole("max_val_documents", max_val_documents, optional=True)
        self._folders = sources
        self._max_val_documents = max_val_documents
        self._max_train_tokens = _checked_limits(max_train_tokens or {}, sources)
        self._verify = verify
        self._is_verified = False

    @cached_property
    def stores(self) -> dict[str, list[OpenStore]]:
        """The stores of each source; opening them checks that all belong together."""
        stores = {name: open_stores(folders) for name, folders in self._folders.items()}
        check_compatible([store for pool in stores.values() for store in pool])
        return stores

    @property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the tokenizer of all stores."""
        return self._any_store.manifest.tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of ids that the stores may hold."""
        return self._any_store.manifest.vocab_size

    @cached_property
    def fingerprint(self) -> str:
        """Identify the stream of rows: equal fingerprints give equal steps."""
        packing_options = {name: value for name, value in vars(self.packing).items() if value}
        limits = self._max_train_tokens
        return content_fingerprint(
            {
                "stores": {
                    name: [store.fingerprint for store in pool]
                    for name, pool in self.stores.items()
                },
                "order": self.source_names,
                "mixture": self.mixture.description(),
                "packing": [type(self.packing).__name__, packing_options],
                "seed": self._seed,
                "seq_len": self.budget.seq_len,
                "tokens_per_step": self.budget.tokens_per_step,
                **({"max_train_tokens": limits} if limits else {}),
            }
        )

    @property
    def store_folders(self) -> dict[str, list[str]]:
        """The token stores of each source."""
        return self._folders

    @property
    def description(self) -> dict[str, Any]:
        """Return the corpora with their terms of use: the stores may be gone one day."""
        found = {
            name: [StoreFacts.of(store.manifest, store.folder).as_record() for store in pool]
            for name, pool in self.stores.items()
        }
        return {"stores": found}

    def prepare_data(self) -> None:
        """Verify the stores once; Lightning calls this on one process of each node."""
        if not self._is_verified:
            verify_stores([store for pool in self.stores.values() for store in pool], self._verify)
            self._is_verified = True

    def training_split(self, name: str) -> TokenSplit:
        """Return the training documents of a source.

        Raises:
            ConfigError: `max_train_tokens` asks for more than there is, or for no document.
        """
        split = TokenSplit.open(self.stores[name], "train")
        limit = self._max_train_tokens.get(name)
        if limit is None:
            return split
        available, chosen = int(split.lengths.sum()), split.first_tokens_by_key(limit)
        if limit > available or not len(chosen):
            raise ConfigError(
                f"data.max_train_tokens.{name} is {limit:,}, but the source has {available:,} "
                f"training tokens in {len(split):,} documents; use a number in between that holds "
                "at least one document, or null for all"
            )
        return chosen

    def validation_rows(self, index: int, name: str) -> EvaluationRows:
        """Return the validation documents of the source of this number and name."""
        return EvaluationRows(
            self.stores[name],
            "val",
            seq_len=self.budget.seq_len,
            batch_size=self.budget.micro_batch_size,
            max_documents=self._max_val_documents,
            source_index=index,
        )

    def save_tokenizer(self, path: Path) -> None:
        """Write the tokenizer of the stores beside a model.

        Raises:
            DataError: If the tokenizer beside the stores is missing or another one.
        """
        folder = self._any_store.folder.parent
        tokenizer = load_tokenizer(folder)
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise DataError(
                f"the tokenizer in {folder} is not the one that its stores were made with"
            )
        tokenizer.save(path)

    @property
    def _any_store(self) -> OpenStore:
        return self.stores[self.source_names[0]][0]


def _checked_limits(limits: dict[str, int], sources: dict[str, list[str]]) -> dict[str, int]:
    unknown = sorted(set(limits) - set(sources))
    if unknown:
        raise ConfigError(
            f"data.max_train_tokens names {', '.join(unknown)}; the sources are "
            f"{', '.join(sources)}"
        )
    for name, limit in limits.items():
        check_whole(f"data.max_train_tokens.{name}", limit)
    return dict(sorted(limits.items()))
