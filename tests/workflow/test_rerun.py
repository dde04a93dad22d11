"""Steps that shall run again: chosen by name or entry, their outputs moved aside."""

from pathlib import Path

import pytest

from biomamba.runtime.errors import ConfigError
from biomamba.workflow.chain import Step
from biomamba.workflow.record import chosen_steps, forget, record_path


def step(name: str, *after: str, folder: Path = Path("runs")) -> Step:
    return Step(
        name=name,
        template=name.split("-")[0],
        program="train",
        overrides=(),
        after=after,
        minutes=1,
        output=str(folder / name),
    )


STEPS = (step("a"), step("b-1", "a"), step("b-2", "a"), step("c", "b-1"))


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([], []),
        (["b-2"], ["b-2"]),
        (["b"], ["b-1", "b-2", "c"]),
        (["b-1", "c"], ["b-1", "c"]),
        (["a"], ["a", "b-1", "b-2", "c"]),
    ],
)
def test_a_name_means_a_step_or_all_of_an_entry(names: list[str], chosen: list[str]) -> None:
    assert chosen_steps(STEPS, names) == chosen


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="rerun: unknown step 'd'"):
        chosen_steps(STEPS, ["d"])


def test_outputs_are_put_aside_and_records_removed(tmp_path: Path) -> None:
    steps = [step(name, folder=tmp_path) for name in ("a", "b")]
    for _ in range(2):
        for found in steps:
            record_path(tmp_path, found.name).parent.mkdir(exist_ok=True)
            record_path(tmp_path, found.name).touch()
            Path(found.output).mkdir(exist_ok=True)
            (Path(found.output) / "model").touch()
        moved = forget(steps, ["b"], tmp_path)

    assert moved == [tmp_path / "replaced" / "b-2"]
    assert (tmp_path / "replaced" / "b-1" / "model").is_file()
    assert (tmp_path / "replaced" / "b-2" / "model").is_file()
    assert not Path(steps[1].output).exists()
    assert (tmp_path / "a" / "model").is_file()
    assert record_path(tmp_path, "a").is_file()
    assert not record_path(tmp_path, "b").exists()


def test_a_step_that_has_no_output_yet_leaves_nothing(tmp_path: Path) -> None:
    assert forget([step("a", folder=tmp_path)], ["a"], tmp_path) == []
    assert list(tmp_path.iterdir()) == []
