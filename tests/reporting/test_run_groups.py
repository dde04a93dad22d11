"""Training runs by recipe."""

from collections.abc import Callable
from pathlib import Path

from biomamba.reporting.groups import mean_of, run_groups
from biomamba.reporting.inputs import TrainingRun, read_training_run

WriteRun = Callable[..., Path]


def _run(write_run: WriteRun, folder: Path, seed: int, tokens: int = 2_000) -> TrainingRun:
    config = write_run(folder, tokens) / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("seed: 3", f"seed: {seed}"))
    return read_training_run(folder.name, folder)


def test_runs_that_differ_in_seeds_are_one_whatever_their_order(
    write_run: WriteRun, tmp_path: Path
) -> None:
    one, two = (_run(write_run, tmp_path / "mix" / f"seed_{n}", n) for n in (1, 2))
    other = _run(write_run, tmp_path / "long", 1, tokens=4_000)
    for order in ([one, two, other], [other, two, one]):
        found = {group.name: group for group in run_groups(order)}
        assert found["mix"].runs == (one, two)
        assert found["long"].runs == (other,)
    assert (found["mix"].num_tokens, found["mix"].hours) == (2_000, 1.0)


def test_a_seed_that_is_there_twice_is_no_group(write_run: WriteRun, tmp_path: Path) -> None:
    one, two = (_run(write_run, tmp_path / name, 1) for name in ("a", "b"))
    assert [group.name for group in run_groups([one, two])] == ["a", "b"]


def test_one_seed_in_a_folder_of_seeds_is_named_by_its_recipe(
    write_run: WriteRun, tmp_path: Path
) -> None:
    one = _run(write_run, tmp_path / "x" / "mix" / "seed_1", 1)
    two = _run(write_run, tmp_path / "y" / "mix" / "seed_1", 1, tokens=4_000)
    assert [group.name for group in run_groups([one, two])] == ["mix", "y/mix"]


def test_a_mean_is_over_what_is_known() -> None:
    assert mean_of([1.0, None, 3.0]) == 2.0
    assert mean_of([None]) is None
