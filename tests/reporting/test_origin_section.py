"""Where the figures of a report come from."""

from collections.abc import Callable
from pathlib import Path

from biomamba.reporting.inputs import read_inputs
from biomamba.reporting.section import Section, Table
from biomamba.reporting.training_sections import origin_section

WriteEvaluation = Callable[..., Path]
WriteRun = Callable[..., Path]

OWN = {"argv": ["runs=[a,b]"], "git": {"commit": "f" * 40}}


def test_files_hashes_and_commands_are_told(
    write_run: WriteRun,
    write_evaluation: WriteEvaluation,
    write_tasks: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run")
    scored = write_tasks(write_evaluation(tmp_path / "eval", {"base": {"web": 2.0}}))
    shown = Table(name="t", caption="", header=[], rows=[], files=["x", "x", "y"])
    section = origin_section(read_inputs([run, scored]), [Section("S", [shown])], OWN)
    tables = {part.name: part for part in section.parts if isinstance(part, Table)}

    assert tables["origins"].rows == [
        ["train run", f"{run}/run.json", "0123456789 with changes", "c" * 16, "d" * 16],
        [
            "evaluate eval: web",
            f"{scored}/results.jsonl",
            "0123456789 with changes",
            "c" * 16,
            "e" * 16,
        ],
        [
            "evaluate eval: quiz",
            f"{scored}/task_results.jsonl",
            "0123456789 with changes",
            "c" * 16,
            "f" * 16,
        ],
    ]
    assert "d" * 64 in tables["origins"].csv()
    assert tables["commands"].rows == [
        ["train run", "python -m biomamba.train +experiment=x 'name=a b'"],
        ["evaluate eval", "python -m biomamba.evaluate +experiment=x 'name=a b'"],
        ["report", "python -m biomamba.report 'runs=[a,b]'"],
    ]
    assert tables["checkpoints"].rows == [["eval", "base", "none/base", "6261736500000000"]]
    assert tables["figures"].rows == [["Table 1", "t", "x, y"]]
    assert section.parts[-1] == "Report made by commit ffffffffff."
