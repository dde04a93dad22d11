"""How the bits per byte of single documents differ between models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.evaluation.comparison import Models, aligned
from biomamba.evaluation.scored import bits_per_byte


def document_changes(models: Models, reference: str) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return, for every source, how bits per byte of each document differ from the reference.

    Of several seeds the mean is taken.
    """
    every = [trained.scored for seeds in models.values() for trained in seeds]
    changes = {}
    for subject, scored in every[0].items():
        is_source = any(measure.name == "bits_per_byte" for measure in scored.measures)
        if is_source and all(subject in other for other in every):
            found = aligned(subject, models)
            means = {name: _mean(seeds) for name, seeds in found.items()}
            changes[subject] = {
                name: values - means[reference]
                for name, values in means.items()
                if name != reference
            }
    return changes


def _mean(seeds: Sequence[Any]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean([bits_per_byte(scored) for scored in seeds], axis=0)
    return mean
