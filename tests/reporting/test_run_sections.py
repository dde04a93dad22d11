"""Training runs in a report."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from biomamba.reporting.groups import Families, Family, RunGroup, run_groups
from biomamba.reporting.inputs import read_training_run
from biomamba.reporting.section import Picture, Section, Table
from biomamba.reporting.training_sections import curves_section, hardware, summary_section

WriteRun = Callable[..., Path]


def table_of(section: Section, name: str) -> Table:
    return next(p for p in section.parts if isinstance(p, Table) and p.name == name)


def test_a_summary_tells_every_run(write_run: WriteRun, tmp_path: Path) -> None:
    group = RunGroup("a", (read_training_run("a", write_run(tmp_path / "a")),))
    table = table_of(summary_section([group]), "runs")

    assert table.header == ["", "a"]
    assert dict(map(tuple, table.rows)) == {
        "model": "Mamba2, 2 layers of 16",
        "started with": "random weights",
        "parameters": "1,000",
        "trained": "400",
        "sources": "pubmed, web",
        "shares wanted": "pubmed 80.0%, web 20.0%",
        "shares realised": "pubmed 75.0%, web 25.0%",
        "epochs": "pubmed 0.50, web 2.00",
        "tokens": "2,000",
        "steps": "20",
        "hours": "1.00",
        "hardware": "CPU, 2 cores, 2 ranks",
        "precision": "bf16-mixed",
        "seed": "3",
        "commit": "0123456789 with changes",
        "selection": "step 10 by val/loss = 3.250",
        "starts": "1 (finished)",
    }


def test_curves_are_pictures_with_a_table(write_run: WriteRun, tmp_path: Path) -> None:
    section = curves_section([RunGroup("a", (read_training_run("a", write_run(tmp_path / "a")),))])
    pictures = [part for part in section.parts if isinstance(part, Picture)]

    assert [picture.name for picture in pictures] == ["loss_curves", "validation_curves"]
    assert all(picture.png.startswith(b"\x89PNG") for picture in pictures)
    assert table_of(section, "validation").rows == [
        ["a", "pubmed", "5.000", "3.500", "-1.500"],
        ["a", "web", "4.000", "inf", "+inf"],
    ]


def test_seeds_are_one_line_of_many(write_run: WriteRun, tmp_path: Path) -> None:
    places = [(1_000, 1), (1_000, 2), (2_000, 1), (3_000, 1), (4_000, 1), (5_000, 1)]
    runs = []
    for tokens, seed in places:
        name = f"r{tokens}_{seed}"
        # One run was worse by seed - 1 in the end.
        folder = write_run(tmp_path / name, tokens, after={"val/web/nll": 2.0 + seed})
        config = folder / ".hydra" / "config.yaml"
        config.write_text(config.read_text().replace("seed: 3", f"seed: {seed}"))
        runs.append(read_training_run(name, folder))
    groups = run_groups(runs)
    section = summary_section(groups)
    table = table_of(section, "runs")
    assert table.header == ["recipe", "tokens", "seed"]
    assert table.rows[:2] == [["r1000_1", "1,000", "1, 2"], ["r2000_1", "2,000", "1"]]
    shared = table_of(section, "runs_alike").rows
    assert ["model", "Mamba2, 2 layers of 16"] in shared
    family = Family("f", groups[:2])
    curves = curves_section(groups, Families([family]))
    assert [p.name for p in curves.parts if isinstance(p, Picture)] == [
        "loss_curves",
        "validation_curves",
        "loss_curves_2",
        "validation_curves_2",
    ]
    # 3 and 4: the mean is 3.5 and the deviation sqrt(1 / 2).
    row = ["r1000_1", "web", "4.000", "3.500 (sd 0.707)", "-0.500 (sd 0.707)"]
    assert row in [list(each) for each in table_of(curves, "validation").rows]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    assert "fills this section" in str(summary_section([]).parts)
    assert "fills this section" in str(curves_section([]).parts)
    (tmp_path / "run.json").write_text(json.dumps({"provenance": {}}))
    section = curves_section([RunGroup("bare", (read_training_run("bare", tmp_path),))])
    assert section.parts == ["No TensorBoard events are in bare: no curves of them."]


@pytest.mark.parametrize(
    ("machine", "ranks", "told"),
    [
        ({"gpus": ["H100", "H100"], "cpu": "x"}, 2, "2 x H100, 2 ranks"),
        ({"gpus": [{"name": "V100"}]}, None, "1 x V100"),
        ({}, None, "-"),
    ],
)
def test_hardware_in_words(machine: dict[str, object], ranks: int | None, told: str) -> None:
    assert hardware(machine, ranks) == told
