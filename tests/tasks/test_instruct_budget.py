"""Epochs to steps, and shares of tasks."""

from typing import Any

import pytest

from biomamba.data.mixture import MixedRows, SourceSize
from biomamba.runtime.errors import ConfigError
from biomamba.tasks.instruct import InstructBudget, epoch_of


def budget(**options: Any) -> InstructBudget:
    sizes = {"tokens_per_step": 128 * 1_024, "seq_len": 1_024, "micro_batch_size": 16}
    return InstructBudget(**(sizes | options))


def size(num_rows: int, samples_per_row: int = 1) -> SourceSize:
    return SourceSize(num_rows, num_rows * 100, num_rows * samples_per_row)


def test_the_steps_of_the_paper_come_out() -> None:
    """800 + 1,486 samples, three epochs, 16 x 8 samples to a step: 53.6 steps."""
    assert budget(epochs=3).of(2_286).num_steps == 54


@pytest.mark.parametrize(("epochs", "steps"), [(1, 2), (0.5, 1), (2, 4), (1.01, 3), (0.001, 1)])
def test_a_step_that_is_begun_is_completed(epochs: float, steps: int) -> None:
    assert budget(epochs=epochs).of(256).num_steps == steps


def test_tokens_decide_where_they_are_given() -> None:
    assert budget(max_tokens=5 * 128 * 1_024).of(999).num_steps == 5


def drawn(sizes: dict[str, SourceSize], shares: dict[str, float] | None, epochs: int) -> list[int]:
    rows, mixture = epoch_of(sizes, shares)
    found = MixedRows(mixture, sizes, seed=1).rows_drawn(rows * epochs)
    return list(found.values())


@pytest.mark.parametrize("rows", [(3, 5), (1, 4_999), (450, 57), (1, 1)])
@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_without_shares_every_row_comes_once_in_an_epoch(
    rows: tuple[int, int], epochs: int
) -> None:
    sizes = {"a": size(rows[0]), "b": size(rows[1], 3)}

    assert drawn(sizes, None, epochs) == [rows[0] * epochs, rows[1] * epochs]


def test_the_smaller_set_of_the_paper_is_repeated_to_its_share() -> None:
    """PubMedQA 800 with BioASQ 1,114 at 65 %: 2,286 samples, of which 1,486 are BioASQ's."""
    sizes = {"pubmedqa": size(800), "bioasq": size(1_114)}
    rows, _ = epoch_of(sizes, {"pubmedqa": 0.35, "bioasq": 0.65})

    assert rows == 2_286
    assert drawn(sizes, {"pubmedqa": 0.35, "bioasq": 0.65}, 1) == [800, 1_486]


def test_shares_count_samples_not_rows() -> None:
    # Rows of b hold four samples: as many samples are a quarter of the rows.
    sizes = {"a": size(800), "b": size(800, 4)}
    of_a, of_b = drawn(sizes, {"a": 0.5, "b": 0.5}, 10)

    assert of_a == pytest.approx(4 * of_b, rel=0.01)


@pytest.mark.parametrize("shares", [{"a": 0.9, "b": 0.1}, {"a": 0.2, "b": 0.8}])
def test_an_epoch_passes_over_every_task(shares: dict[str, float]) -> None:
    sizes = {"a": size(57), "b": size(113, 2)}
    found = drawn(sizes, shares, 1)

    assert found[0] >= 57 - 1
    assert found[1] >= 113 - 1
    assert min(found[0] - 57, found[1] - 113) <= 1


def test_a_task_without_a_share_is_not_drawn() -> None:
    sizes = {"a": size(10), "b": SourceSize(0, 0, 0)}

    assert drawn(sizes, {"a": 1.0, "b": 0.0}, 3) == [30, 0]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "epochs is None and max_tokens is None"),
        ({"epochs": 1, "max_tokens": 1_024}, "epochs is 1 and max_tokens is 1024"),
        ({"epochs": 0}, "epochs must be .* above 0, or null, found 0"),
        ({"epochs": 1, "tokens_per_step": 1_000}, "no multiple of seq_len"),
        ({"epochs": 1, "seq_len": 0}, "seq_len must be .* at least 1, found 0"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        budget(**options)
