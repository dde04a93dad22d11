"""`python -m biomamba.doctor` on this machine, and on ones that lack things."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from biomamba import doctor
from biomamba.diagnosis.machine import ok, problem, warning
from biomamba.doctor import PROBLEM_CODE, checks_of, main
from biomamba.runtime.errors import ConfigError

Compose = Callable[..., DictConfig]


@pytest.fixture
def examine(
    compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int | None, dict[str, Any], str]]:
    """Return examine(*overrides): exit code, the written report, and what was printed."""

    def _examine(*overrides: str) -> tuple[int | None, dict[str, Any], str]:
        output = tmp_path / "doctor.json"
        folders = (f"paths.run_dir={tmp_path / 'runs'}", f"paths.data_dir={tmp_path / 'data'}")
        code = main(compose("doctor", f"output={output}", *folders, *overrides))
        return code, json.loads(output.read_text()), capsys.readouterr().out

    return _examine


def test_every_check_comes_to_an_answer_here(examine: Callable[..., Any]) -> None:
    code, report, text = examine()

    topics = {finding["topic"] for finding in report["findings"]}
    assert {"processor", "memory", "torch", "kernels", "backend", "precision"} <= topics
    assert {"parity", "packed documents", "batch invariance", "fp16 range"} <= topics
    assert {"disk", "write speed", "atomic rename", "slurm", "token stores"} <= topics
    assert not [f for f in report["findings"] if "could not be checked" in f["text"]]
    assert (code == PROBLEM_CODE) is (report["worst"] == "problem")
    assert "batch invariance" in text
    assert report["versions"]["torch"]


@pytest.mark.parametrize(
    ("findings", "code", "counts"),
    [
        ([ok("a", "b")], None, "problems: 0, warnings: 0"),
        ([ok("a", "b"), warning("c", "d", "e")], None, "problems: 0, warnings: 1"),
        ([problem("c", "d [e]", "f"), ok("a", "b")], PROBLEM_CODE, "problems: 1, warnings: 0"),
    ],
)
def test_only_problems_change_the_exit_code(
    findings: list[Any],
    code: int | None,
    counts: str,
    examine: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "checks_of", lambda *_: [("x", lambda: findings)])

    found, report, text = examine()

    assert found == code
    assert counts in text
    assert len(report["findings"]) == len(findings)
    if code:
        assert "d [e]" in text
        assert "-> f" in text


def test_a_precision_that_does_not_train_is_refused(examine: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.precision"):
        examine("precision=16-true")


def test_only_an_earlier_report_is_replaced(
    examine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "checks_of", lambda *_: [("a", lambda: [ok("a", "well")])])
    assert examine() == examine()

    (tmp_path / "doctor.json").write_text('{"findings": []}')
    monkeypatch.setattr(doctor, "checks_of", pytest.fail)
    with pytest.raises(ConfigError, match=r"doctor\.json, which is not an earlier report"):
        examine()


def test_what_fails_inside_a_check_is_no_traceback(
    examine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail() -> Any:
        raise OSError("no such machine")

    names = [name for name, _ in checks_of("32-true", tmp_path, tmp_path)]
    monkeypatch.setattr(doctor, "checks_of", lambda *_: [(name, fail) for name in names])

    code, report, _ = examine()

    assert code == PROBLEM_CODE
    assert [finding["topic"] for finding in report["findings"]] == names
