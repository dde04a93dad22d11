"""`biomamba <command>`: help, unknown commands, and the same program as `python -m`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from biomamba import __main__ as front
from biomamba.config.cli import USER_ERROR_CODE
from biomamba.config.experiments import experiment_table, list_experiments
from biomamba.config.safety import conf_dir

PACKAGE = Path(front.__file__).parent


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["biomamba", *arguments])
    front.main()


def test_every_program_is_a_command() -> None:
    programs = {
        path.stem for path in PACKAGE.glob("*.py") if "run_cli(" in path.read_text(encoding="utf-8")
    }

    assert set(front.COMMANDS) == programs


def test_help_has_one_line_per_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "--help")

    shown = capsys.readouterr().out
    listed = re.findall(r"^  (\w+) +\S.{20,}$", shown, re.MULTILINE)
    assert [name for name in listed if name in front.COMMANDS] == list(front.COMMANDS)


def test_an_unknown_command_is_named_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "trian", "+experiment=demo/adapt")

    assert stop.value.code == USER_ERROR_CODE
    assert "'trian' (did you mean 'train'?)" in capsys.readouterr().err


def test_a_command_is_the_same_program_as_its_module(tmp_path: Path) -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-m", *words, "--cfg", "job", "run=first"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for words in (["biomamba", "ledger"], ["biomamba.ledger"])
    ]

    assert outputs[0] == outputs[1] != ""


def test_the_front_door_does_not_import_torch() -> None:
    code = "import sys, biomamba.__main__; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_experiment_is_listed_by_one_program_with_its_first_comment() -> None:
    folders = [conf_dir()]
    listed = [list_experiments(program, folders) for program in front.COMMANDS]

    names = [name for found in listed for name in found]
    files = [
        path.relative_to(conf_dir() / "experiment").with_suffix("").as_posix()
        for path in (conf_dir() / "experiment").rglob("[!_]*.yaml")
    ]
    assert sorted(names) == sorted(files)
    assert [name for found in listed for name, text in found.items() if not text] == []


def test_an_own_folder_adds_its_experiments(tmp_path: Path) -> None:
    own = tmp_path / "experiment" / "mine" / "first.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\n# Ours.\n")

    table = experiment_table("train", [tmp_path, conf_dir()])

    assert re.search(r"^  mine/first +Ours\.$", table, re.MULTILINE)
    assert re.search(r"^  demo/adapt +\S", table, re.MULTILINE)
