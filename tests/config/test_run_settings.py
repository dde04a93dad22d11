"""The settings that a run keeps, as plain values."""

from pathlib import Path

import pytest

from biomamba.config.run_settings import run_settings_in
from biomamba.runtime.errors import DataError

SETTINGS = """\
name: cpt
run_id: ${now:%Y-%m-%d}
seed: 1
paths: {data_dir: data, run_dir: runs/x}
sources: {text: ["${paths.data_dir}/set/a"]}
data: {sources: "${sources}", seed: "${seed}"}
model: {checkpoint: null}
"""


def write(run: Path, text: str) -> Path:
    (run / ".hydra").mkdir()
    (run / ".hydra" / "config.yaml").write_text(text)
    return run


def test_references_become_values_and_those_to_the_clock_are_left_alone(tmp_path: Path) -> None:
    assert run_settings_in(write(tmp_path, SETTINGS)) == {
        "seed": 1,
        "data": {"sources": {"text": ["data/set/a"]}, "seed": 1},
        "model": {"checkpoint": None},
    }


def test_a_run_without_settings_tells_nothing(tmp_path: Path) -> None:
    assert run_settings_in(tmp_path) == {}


@pytest.mark.parametrize("text", ["- a list", "data: ${nowhere}", "a: [", "data: {a: ${nowhere}}"])
def test_what_are_no_settings_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        DataError, match=r"config\.yaml: (cannot be read|not the settings of a run)"
    ):
        run_settings_in(write(tmp_path, text))
