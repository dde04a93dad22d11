"""Reports as a whole."""

from pathlib import Path

import pytest

from biomamba.evaluation.comparison import ComparisonSettings
from biomamba.reporting.inputs import ReportInputs
from biomamba.reporting.report import Report, ReportSettings, report_of, write_report
from biomamba.reporting.section import Picture, Section, Table
from biomamba.runtime.errors import ConfigError


def test_every_part_becomes_a_file(tmp_path: Path) -> None:
    table = Table(name="t", caption="", header=["a"], rows=[["1"]])
    picture = Picture(name="p", caption="", png=b"png")
    write_report(tmp_path, "R", "", Report([Section("S", ["text", table, picture])]))

    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(found) == ["p.png", "report.html", "report.md", "t.csv"]
    assert (found["p.png"], found["t.csv"]) == (b"png", b"a\n1\n")


def test_an_unknown_reference_is_refused() -> None:
    settings = ReportSettings(comparison=ComparisonSettings(reference="x"))
    with pytest.raises(ConfigError, match="reference is 'x'; the models are none"):
        report_of(ReportInputs(), settings, {})


@pytest.mark.parametrize("name", ["num_listed", "num_refits"])
def test_settings_check_themselves(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        ReportSettings(**{name: 0})  # type: ignore[arg-type]
