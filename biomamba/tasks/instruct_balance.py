"""Labels rarer than others: left as they are, brought to a ratio, or weighed in the loss."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from biomamba.data.document import document_key
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_number
from biomamba.tasks.instruct_samples import Sample, Samples

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
