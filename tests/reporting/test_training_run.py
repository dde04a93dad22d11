"""Training runs read from their folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomamba.reporting.inputs import read_training_run
from biomamba.runtime.errors import DataError

WriteRun = Callable[..., Path]


def test_a_run_has_record_settings_and_curves(write_run: WriteRun, tmp_path: Path) -> None:
    run = read_training_run("a", write_run(tmp_path / "a"))

    assert run.curves["train/loss"] == {10: 4.0, 20: 3.0}
    assert run.tokens_by_step == {0: 0.0, 10: 1_000.0, 20: 2_000.0}
    assert run.num_tokens == 2_000
    assert run.actual.hours == pytest.approx(1.0)
    assert run.settings["seed"] == 3
    found = run.validation("nll")
    assert found == {"pubmed": (5.0, 3.5), "web": (4.0, float("inf"))}


def test_a_run_without_curves_and_settings(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"provenance": {"git": None}}))
    run = read_training_run("a", tmp_path)

    assert (run.curves, run.settings, run.num_tokens) == ({}, {}, None)
    assert (run.tokens_by_step, run.validation("nll")) == ({}, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"provenance": None}, "no record of a training run"),
        ({"realised": {"web": 3}}, "realised.web is a number"),
        ({"realised": [3]}, "realised is a list"),
        ({"before": [1]}, "before is a list, not an object"),
        ({"starts": {"end": "x"}}, "starts is an object, not a list"),
        ({"provenance": {"git": "main"}}, r"provenance\.git is a text"),
    ],
)
def test_a_foreign_record_is_named(
    changes: dict[str, Any], message: str, write_run: WriteRun, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "a", **changes)
    with pytest.raises(DataError, match=rf"run\.json: .*{message}"):
        read_training_run("a", folder)


@pytest.mark.parametrize("content", ["{half", "[1]", '"text"'])
def test_a_damaged_record_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(DataError, match=r"run\.json: "):
        read_training_run("a", tmp_path)


def test_a_foreign_event_file_is_named(write_run: WriteRun, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "tensorboard" / "events.out.tfevents.9.x").write_bytes(b"garbage" * 9)
    with pytest.raises(DataError, match=r"events\.out\.tfevents\.9\.x: not a file of TensorBoard"):
        read_training_run("a", folder)
