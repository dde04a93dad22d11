"""What answers without a model are worth: the most frequent label, and chance."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from biomamba.metrics.measure import Measure
from biomamba.tasks.item import Item
from biomamba.tasks.prediction import Prediction
from biomamba.tasks.task import ChooseLabel, ChooseOption, Task

MAJORITY, RANDOM = "majority", "random"


def majority_measures(
    task: Task, items: Sequence[Item], training_labels: Sequence[str]
) -> Sequence[Measure]:
    """Return the figures of the most frequent label of the training split; none without labels."""
    if not training_labels:
        return []
    assert isinstance(task.answer, ChooseLabel)
    counts = Counter(training_labels)
    label = max(task.answer.labels, key=lambda label: counts[label])  # the first of equals
    predictions = [Prediction(id=item.id, text=label, label=label) for item in items]
    return task.measures(items, predictions)


def random_values(
    task: Task, items: Sequence[Item], num_draws: int, seed: int
) -> dict[str, list[float]]:
    """Return the value of every measure, by name, for each draw of uniform answers to all items.

    None for tasks whose answers are written.
    """
    answer = task.answer
    if not isinstance(answer, ChooseLabel | ChooseOption):
        return {}
    is_label = isinstance(answer, ChooseLabel)
    texts = [answer.labels if isinstance(answer, ChooseLabel) else item.options for item in items]
    sizes = np.array([len(each) for each in texts])
    rng = np.random.Generator(np.random.Philox([seed, len(items)]))
    values: dict[str, list[float]] = {}
    for _ in range(num_draws):
        places = (rng.random(len(items)) * sizes).astype(np.int64).tolist()
        chosen = [each[place] for each, place in zip(texts, places, strict=True)]
        predictions = [
            Prediction(id=item.id, text=text, label=text if is_label else None)
            for item, text in zip(items, chosen, strict=True)
        ]
        for measure in task.measures(items, predictions):
            values.setdefault(measure.name, []).append(measure.value)
    return values
