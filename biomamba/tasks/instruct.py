"""The LightningDataModule for fine-tuning: samples of tasks as an exact stream of steps."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from biomamba.data.batches import DocumentRows
from biomamba.data.datamodule import PlannedData
from biomamba.data.document import document_key
from biomamba.data.loader import WORKER_TIMEOUT_SECONDS
from biomamba.data.mixture import Mixture, SourceSize, TokenBudget
from biomamba.data.packing import Packing
from biomamba.data.store.reader import MemorySplit, content_fingerprint
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_number
from biomamba.runtime.ranks import is_rank_zero
from biomamba.tasks.instruct_samples import Sample, SampleRules, Samples, check_apart, encode_items
from biomamba.tasks.task import Task

# -------------------------------------------------------------------------------------------------
# Labels rarer than others: left as they are, brought to a ratio, or weighed in the loss.
# -------------------------------------------------------------------------------------------------

# Weights are multiples of this, so that their sums are exact in any order: the number of ranks and
# the size of micro-batches leave no trace.
_WEIGHT_STEP = 2.0**-12


@dataclass(frozen=True, kw_only=True)
class LabelBalance:
    """What is done about uneven labels.

    Attributes:
        ratios: For each task the ratio of its labels, as {yes: 65, no: 35}. What is too much of a
            label is left out, chosen by a hash of seed and id; labels that are not named stay.
        class_weighted: Weigh every target of a sample by n / (k n_label), of k labels on n samples:
            all labels of a task count alike, and its mean weight is 1.

    Source: arXiv 2408.02600 trains on yes and no at 65 to 35 or 50 to 50.
    """

    ratios: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    class_weighted: bool = False

    def __post_init__(self) -> None:
        for task, ratio in self.ratios.items():
            if len(ratio) < 2:
                raise ConfigError(
                    f"balance.ratios of {task} is {dict(ratio)}; name two labels or more"
                )
            for label, part in ratio.items():
                check_number(f"balance.ratios.{task}.{label}", part, above=0)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise ConfigError if a ratio names a task that is not trained on."""
        unknown = sorted(set(self.ratios) - set(tasks))
        if unknown:
            raise ConfigError(f"balance.ratios names {unknown}; the tasks: {', '.join(tasks)}")

    def keep(self, task: str, samples: Samples, seed: int) -> Samples:
        """Return the samples that the ratio of a task leaves, in their order.

        Raises:
            ConfigError: A label of the ratio has no samples.
        """
        ratio = self.ratios.get(task)
        if ratio is None:
            return samples
        counts = samples.labels
        missing = sorted(set(ratio) - set(counts))
        if missing:
            raise ConfigError(
                f"balance.ratios of {task} names the labels {missing}; its training labels: "
                f"{counts or 'none'}"
            )
        wanted = _kept_counts({label: counts[label] for label in ratio}, ratio)
        kept: set[str] = set()
        for label, count in wanted.items():
            same = [sample for sample in samples.samples if sample.label == label]
            kept |= {s.id for s in sorted(same, key=lambda s: _place(s, seed))[:count]}
        left = [s for s in samples.samples if s.label not in wanted or s.id in kept]
        num_dropped = len(samples.samples) - len(left)
        rejects = Counter(samples.rejects) + Counter({"surplus of a label": num_dropped})
        return replace(samples, samples=left, rejects=dict(rejects))

    def weights(self, samples: Samples) -> dict[str | None, float]:
        """Return the weight of each label; empty if labels are not weighed, or there are none."""
        labels = samples.labels
        if not self.class_weighted or not labels:
            return {}
        total = sum(labels.values())
        return {
            label: max(round(total / (len(labels) * count) / _WEIGHT_STEP), 1) * _WEIGHT_STEP
            for label, count in labels.items()
        }


def _kept_counts(counts: Mapping[str, int], ratio: Mapping[str, float]) -> dict[str, int]:
    """Return how many of each label stay: all of one, and as many of the others as it allows."""
    parts = {label: Fraction(str(part)) for label, part in ratio.items()}
    scale = min(counts[label] / part for label, part in parts.items())
    return {label: int(part * scale) for label, part in parts.items()}


def _place(sample: Sample, seed: int) -> int:
    return document_key(f"{seed} {sample.id}")


# -------------------------------------------------------------------------------------------------
# The size of a fine-tuning run: in epochs of its tasks, or in tokens as elsewhere.
# -------------------------------------------------------------------------------------------------

# The shares hold after so many rows at the latest.
_MIN_BLOCK_ROWS = 1_000
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class InstructBudget:
    """The size of a run, of which one of epochs and max_tokens is given.

    Attributes:
        epochs: How often the tasks are passed over; a step that is started is completed.
        max_tokens: Positions of the whole run.
        tokens_per_step: Positions of one optimizer step over all ranks.
        seq_len: Positions of a row.
        micro_batch_size: Rows per rank in one forward pass.
    """

    epochs: float | None = None
    max_tokens: int | None = None
    tokens_per_step: int
    seq_len: int
    micro_batch_size: int

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.max_tokens is None):
            raise ConfigError(
                f"epochs is {self.epochs} and max_tokens is {self.max_tokens}; set one of them and "
                "the other to null"
            )
        check_number("epochs", self.epochs, above=0, optional=True)
        self.of(1)

    def of(self, rows_per_epoch: int) -> TokenBudget:
        """Return the budget of a run whose epoch has so many rows."""
        max_tokens = self.max_tokens
        if max_tokens is None:
            assert self.epochs is not None
            rows_per_step = max(1, self.tokens_per_step // max(1, self.seq_len))
            steps = math.ceil(self.epochs * rows_per_epoch / rows_per_step - _ROUNDING)
            max_tokens = max(1, steps) * self.tokens_per_step
        return TokenBudget(max_tokens, self.tokens_per_step, self.seq_len, self.micro_batch_size)


def epoch_of(
    sizes: Mapping[str, SourceSize], shares: Mapping[str, float] | None
) -> tuple[int, Mixture]:
    """Return the rows of an epoch, and the mixture of the tasks.

    An epoch without shares is every sample once. With shares it continues until every task that has
    one was passed over, by when the smaller ones were repeated.
    Source: arXiv 2408.02600 repeats its smaller set until it has its share.

    Args:
        sizes: Size of each task, 0 of those that are only validated.
        shares: Part of the samples that each task gives; None: as many as it has.
    """
    if shares is None:
        total = sum(size.num_rows for size in sizes.values())
        weights = {name: size.num_rows / total for name, size in sizes.items()}
        return total, Mixture(weights, "sequences", total)
    rows = {
        name: share / sizes[name].per_row("documents")
        for name, share in shares.items()
        if share > 0
    }
    needed = max(sizes[name].num_rows * sum(rows.values()) / part for name, part in rows.items())
    epoch = math.ceil(needed - _ROUNDING)
    block = epoch * math.ceil(_MIN_BLOCK_ROWS / epoch)
    return epoch, Mixture(dict(shares), "documents", block)


# -------------------------------------------------------------------------------------------------
# Fine-tuning on tasks: their samples are the documents of an exact stream of steps.
#
# Everything that holds for pretraining holds here: step t is a pure function of seed, shares and t,
# whatever the ranks, workers and micro-batches; samples keep their own state; a ledger says what
# was trained on; a run continues where it was stopped.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _TaskData:
    """The samples of one task, and the weight of each label in the loss."""

    train: Samples
    val: Samples
    weights: Mapping[str | None, float]


class InstructDataModule(PlannedData):
    """Mix the training items of tasks into steps; validate on their validation items.

    The test split of a task is never asked for.

    Args:
        tasks: The tasks by name; their order numbers them.
        tokenizer: Folder with a tokenizer.json, such a file, or a hub repository.
        packing: Layout of the rows; it must not cut samples.
        budget: Size of the run.
        samples: Which items become samples.
        balance: What is done about uneven labels.
        seed: Selects the order of the rows, and what a ratio of labels leaves out.
        shares: Part of the samples that each task gives, in sum 1; 0 validates only. None: every
            sample equally often.
        max_repetition: Refuse a run that passes over a task more often; None for no limit.
        num_workers: Processes that build batches; 0 builds them in the main one.
        worker_timeout_seconds: When the run gives up a worker process that gives nothing, with an
            error that names it; None waits for ever.
    """

    def __init__(  # noqa: PLR0913 - one keyword per line of a data config
        self,
        *,
        tasks: dict[str, Task],
        tokenizer: str | None,
        packing: Packing,
        budget: InstructBudget,
        samples: SampleRules,
        balance: LabelBalance,
        seed: int,
        shares: dict[str, float] | None = None,
        max_repetition: float | None = None,
        num_workers: int = 0,
        worker_timeout_seconds: float | None = WORKER_TIMEOUT_SECONDS,
    ) -> None:
        _check(tasks, shares, balance)
        self.tokenizer = open_tokenizer(tokenizer)
        self._rules, self._balance, self._tasks = samples, balance, tasks
        self._seq_len, self._sample_seed = budget.seq_len, seed
        self._found = {
            name: self._read(task, is_trained=shares is None or shares[name] > 0)
            for name, task in tasks.items()
        }
        self._train = {
            name: found.train.split(self.tokenizer.eod_id, found.weights)
            for name, found in self._found.items()
        }
        sizes = {name: _size(split, packing, budget) for name, split in self._train.items()}
        self.rows_per_epoch, mixture = epoch_of(sizes, shares)
        super().__init__(
            budget.of(self.rows_per_epoch),
            tasks,
            mixture,
            packing,
            seed=seed,
            max_repetition=max_repetition,
            num_workers=num_workers,
            worker_timeout_seconds=worker_timeout_seconds,
        )
        if is_rank_zero():
            self._tell()

    @cached_property
    def fingerprint(self) -> str:
        """Identify the stream: the ids of all samples, their weights, and what orders them."""
        packing_options = {name: value for name, value in vars(self.packing).items() if value}
        return content_fingerprint(
            {
                "train": {name: split.digest for name, split in self._train.items()},
                "val": {name: split.digest for name, split in self._val.items()},
                "order": self.source_names,
                "tokenizer": self.tokenizer_fingerprint,
                "mixture": self.mixture.description(),
                "packing": [type(self.packing).__name__, packing_options],
                "seed": self._seed,
                "seq_len": self.budget.seq_len,
                "tokens_per_step": self.budget.tokens_per_step,
            }
        )

    @property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the tokenizer."""
        return self.tokenizer.fingerprint

    @property
    def vocab_size(self) -> int:
        """Number of ids that a batch may hold."""
        return self.tokenizer.vocab_size

    @property
    def store_folders(self) -> dict[str, list[str]]:
        """Nothing: there are no stores."""
        return {}

    @property
    def description(self) -> dict[str, Any]:
        """Return what was learned of each task and how, for the record of the run."""
        return {
            "max_prompt_tokens": self._rules.max_prompt_tokens(self._seq_len),
            "rows_per_epoch": self.rows_per_epoch,
            "epochs": self.budget.num_steps * self.budget.sequences_per_step / self.rows_per_epoch,
            "steps": self.budget.num_steps,
            "tasks": {
                name: {
                    "protocol": task.protocol,
                    "access": task.access,
                    "prompt": task.prompt.name,
                    "prompt_fingerprint": task.prompt.fingerprint,
                    "files": dict(task.files),
                    "kept_apart": {
                        split: {
                            "files": dict(task.split_files(split)),
                            "rule": task.split_rule(split),
                        }
                        for split in ("val", "test")
                    },
                    "label_weights": dict(self._found[name].weights),
                    "train": self._found[name].train.description(),
                    "val": self._found[name].val.description(),
                }
                for name, task in self._tasks.items()
            },
        }

    def training_split(self, name: str) -> MemorySplit:
        """Return the training samples of a task."""
        return self._train[name]

    def validation_rows(self, index: int, name: str) -> DocumentRows:
        """Return the validation samples of the task of this number and name."""
        return DocumentRows(
            self._val[name],
            seq_len=self.budget.seq_len,
            batch_size=self.budget.micro_batch_size,
            source_index=index,
        )

    def save_tokenizer(self, path: Path) -> None:
        """Write the tokenizer beside a model."""
        self.tokenizer.save(path)

    @cached_property
    def _val(self) -> dict[str, MemorySplit]:
        return {name: f.val.split(self.tokenizer.eod_id, {}) for name, f in self._found.items()}

    def _read(self, task: Task, *, is_trained: bool) -> _TaskData:
        options = (self.tokenizer, self._rules, self._seq_len)
        train = encode_items(task, "train", *options) if is_trained else Samples([])
        val = encode_items(task, "val", *options)
        check_apart(train, val, task.name)
        kept = self._balance.keep(task.name, train, self._sample_seed)
        return _TaskData(kept, val, self._balance.weights(kept))

    def _tell(self) -> None:
        """Say on stderr what became of the items; no text of them."""
        console = Console(stderr=True)
        lines = []
        for name, found in self._found.items():
            weights = f", weights {dict(found.weights)}" if found.weights else ""
            lines.append(f"{name}: {_counts(found.train)}{weights}")
            lines.append(f"  to validate: {_counts(found.val)}")
        told, budget = self.description, self.budget
        lines.append(
            f"{told['epochs']:.2f} epochs of {self.rows_per_epoch:,} rows: {budget.num_steps:,} "
            f"steps of {budget.sequences_per_step:,} rows; prompts have at most "
            f"{told['max_prompt_tokens']:,} tokens"
        )
        console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def open_tokenizer(source: str | None) -> Tokenizer:
    """Load the tokenizer of a model folder, a file or a hub repository (`name@revision`).

    Raises:
        ConfigError: None is named.
        DataError: There is none.
    """
    if source is None:
        raise ConfigError(
            "data.tokenizer is null, and so is model.checkpoint: name the tokenizer.json or the "
            "hub repository of the tokenizer that the model is to learn with"
        )
    folder = Path(source).expanduser()
    if folder.is_dir():
        return Tokenizer.load(str(folder / "tokenizer.json"))
    repository, _, revision = source.partition("@")
    try:
        return Tokenizer.load(source if folder.is_file() else repository, revision or None)
    except DataError as error:
        raise DataError(
            f"data.tokenizer: {error}. The published state-spaces checkpoints have no tokenizer "
            "beside them: data.tokenizer=EleutherAI/gpt-neox-20b"
        ) from error


def _check(
    tasks: Mapping[str, Task], shares: Mapping[str, float] | None, balance: LabelBalance
) -> None:
    if not tasks:
        raise ConfigError("no tasks to learn; choose some with task=[...]")
    if shares is not None and set(shares) != set(tasks):
        raise ConfigError(
            f"data.shares names {sorted(shares)}, the tasks are {sorted(tasks)}; name the same, "
            "and give 0 to a task that is only validated"
        )
    for name, share in (shares or {}).items():
        check_number(f"data.shares.{name}", share, at_least=0)
    if shares is not None and not any(share > 0 for share in shares.values()):
        raise ConfigError(f"data.shares is {shares}; give a share to a task")
    balance.check_tasks(list(tasks))


def _size(split: MemorySplit, packing: Packing, budget: InstructBudget) -> SourceSize:
    plan = packing.plan(split.lengths, budget.seq_len)
    if plan.piece_start.any():
        raise ConfigError(
            f"{type(packing).__name__} cuts samples; choose packing BestFit or SingleDocument"
        )
    return SourceSize(plan.num_rows, int(split.lengths.sum()), len(split))


def _counts(samples: Samples) -> str:
    """Return the counts of a split in words."""
    details = {
        **samples.labels,
        **{f"left out ({reason})": count for reason, count in samples.rejects.items()},
        "prompts shortened": samples.num_shortened_prompts,
        "targets cut": samples.num_cut_targets,
    }
    told = ", ".join(f"{name} {count:,}" for name, count in details.items() if count)
    return f"{len(samples.samples):,} samples" + (f" ({told})" if told else "")
