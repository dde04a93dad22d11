"""`python -m biomamba.report` on folders that its tests in tests/reporting describe."""

import json
from pathlib import Path

import pytest

from biomamba.config.compose import compose_config
from biomamba.report import folders_of, main
from biomamba.runtime.errors import ConfigError, DataError


def test_a_run_becomes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, output = tmp_path / "run", tmp_path / "report"
    run.mkdir()
    record = {
        "provenance": {"argv": ["seed=7"], "git": None},
        "before": {"val/web/nll": 3.0},
        "after": {"val/web/nll": 2.0},
    }
    (run / "run.json").write_text(json.dumps(record))
    main(compose_config("report", [f"runs=[{run}]", f"output={output}", "title='<Mine>'"]))

    html = (output / "report.html").read_text()
    assert "<title>&lt;Mine&gt;</title>" in html
    assert html.count("<section") == 12
    assert "python -m biomamba.train seed=7" in html
    assert "fills this section" in html
    assert (output / "validation.csv").read_text() == (
        "run,source,before,after,change\nrun,web,3.000,2.000,-1.000\n"
    )
    assert str(output / "report.html") in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    output = tmp_path / "report"
    with pytest.raises(DataError, match="allowed are folders that biomamba"):
        main(compose_config("report", [f"runs=[{tmp_path}]", f"output={output}"]))
    assert not output.exists()


def test_all_wrong_folders_and_files_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomamba.report.read_inputs", pytest.fail)
    output, tree = tmp_path / "report", tmp_path / "mtrees.bin"
    runs = f"runs=[{tmp_path}/a,{tmp_path}/b]"
    with pytest.raises(ConfigError) as caught:
        main(
            compose_config(
                "report", [runs, f"output={output}", f"report.metadata.mesh_tree={tree}"]
            )
        )
    lines = str(caught.value).splitlines()

    for words in (f"{tmp_path}/a: no such folder", f"{tmp_path}/b: no such folder", f"{tree}"):
        assert sum(words in line for line in lines) == 1
    assert not output.exists()


@pytest.mark.parametrize("runs", ["a", [1], {"a": ["b"]}, None])
def test_runs_must_be_a_list_of_folders(runs: object) -> None:
    with pytest.raises(ConfigError, match="runs must list folders of training runs"):
        folders_of(runs)
