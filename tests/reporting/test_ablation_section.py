"""Ablations in a report."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from biomamba.evaluation.comparison import ComparisonSettings
from biomamba.metrics.measure import Bootstrap
from biomamba.reporting.ablations import ablation_section
from biomamba.reporting.groups import families_of, run_groups
from biomamba.reporting.inputs import read_inputs
from biomamba.reporting.scores import report_scores
from biomamba.reporting.section import Picture, Section, Table

WriteEvaluation = Callable[..., Path]
WriteRun = Callable[..., Path]

SETTINGS = ComparisonSettings(bootstrap=Bootstrap(num_resamples=200, seed=1))
BASE = [2.0, 2.1, 1.9, 2.2, 1.8, 2.0]
SHIFTS = {"mix": 0.0, "mix_more": 0.5, "mix_same": 0.001}


@pytest.fixture
def section(
    write_run: WriteRun, write_evaluation: WriteEvaluation, tmp_path: Path
) -> Callable[[Sequence[float]], Section]:
    """Return the section over seeds that add so much to every document."""

    def _section(seeds: Sequence[float]) -> Section:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        folders, bits, paths = [], {"base": {"web": 3.0}}, {"base": "runs/base/model"}
        for number, (name, shift) in enumerate(SHIFTS.items()):
            for seed, scatter in enumerate(seeds, start=1):
                folder = write_run(root / name / f"seed_{seed}")
                config = folder / ".hydra" / "config.yaml"
                text = config.read_text().replace("seed: 3", f"seed: {seed}\nname: ablation/{name}")
                text = text.replace("checkpoint: null", "checkpoint: runs/base/model")
                config.write_text(text.replace("n_layer: 2", f"n_layer: {2 + number}"))
                label = f"{name}_{seed}"
                bits[label] = {"web": [b + shift + scatter for b in BASE]}  # type: ignore[dict-item]
                paths[label] = str(folder / "model")
                folders.append(folder)
        write_evaluation(root / "eval", bits, paths)
        inputs = read_inputs([*folders, root / "eval"])
        groups = run_groups(inputs.runs)
        scores = report_scores(inputs.evaluations, groups)
        return ablation_section(families_of(groups), scores, SETTINGS)

    return _section


def rows_of(section: Section) -> dict[str, Sequence[str]]:
    table = next(part for part in section.parts if isinstance(part, Table))
    return {row[0]: row for row in table.rows}


def width_of(cell: str) -> float:
    low, high = cell.split("[")[1].rstrip("]").split(", ")
    return float(high) - float(low)


def test_each_recipe_stands_against_the_reference(
    section: Callable[[Sequence[float]], Section],
) -> None:
    found = section([-0.01, 0.0, 0.01])
    table, picture, finding = found.parts
    assert isinstance(table, Table)
    assert isinstance(picture, Picture)
    assert list(table.header[3:]) == [
        "bits/byte web",
        "difference web",
        "p (Holm)",
        "tokens",
        "hours",
    ]
    rows = rows_of(found)
    assert list(rows["mix"][:3]) == ["mix", "the reference", "3"]
    assert rows["mix"][3].startswith("2.000 [")
    assert list(rows["mix_more"][1:3]) == ["n_layer 3", "3"]
    assert rows["mix_more"][4].startswith("+0.500 [")
    assert float(rows["mix_more"][5].lstrip("<")) < 0.05 < float(rows["mix_same"][5])
    assert list(rows["mix_more"][6:]) == ["2,000", "1.00"]
    assert "1 of 2 differences to mix" in str(finding)
    assert "mix_more +0.500 on web" in str(finding)


def test_seeds_that_scatter_more_have_wider_intervals(
    section: Callable[[Sequence[float]], Section],
) -> None:
    cells = [rows_of(section([-s, 0.0, s]))["mix_more"] for s in (0.001, 0.05, 0.2)]
    widths = [width_of(row[4]) for row in cells]
    assert widths[0] < widths[1] < widths[2]


def test_one_seed_is_the_plain_figure(section: Callable[[Sequence[float]], Section]) -> None:
    row = rows_of(section([0.0]))["mix_more"]
    assert row[2] == "1"
    assert "said of these checkpoints only" in str(section([0.0]).parts)
    assert "said of these checkpoints only" not in str(section([0.0, 0.1]).parts)
    assert row[4] == "+0.500 [-, -]"  # every document alike: no scatter of documents


def test_what_was_not_evaluated_is_said(write_run: WriteRun, tmp_path: Path) -> None:
    for name in ("mix_a", "mix_b"):
        config = write_run(tmp_path / name) / ".hydra" / "config.yaml"
        text = config.read_text().replace("seed: 3", f"seed: 3\nname: ablation/{name}")
        config.write_text(text.replace("n_layer: 2", f"n_layer: {len(name)}") + f"x: {name}\n")
    groups = run_groups(read_inputs([tmp_path]).runs)
    table, told = ablation_section(families_of(groups), report_scores([]), SETTINGS).parts
    assert isinstance(table, Table)
    assert "Nothing of it was evaluated on held-out documents" in str(told)
    nothing = ablation_section(families_of([]), report_scores([]), SETTINGS)
    assert "needs runs of several recipes" in str(nothing.parts)
