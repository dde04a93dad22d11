"""Loss against tokens in a report."""

from collections.abc import Callable
from pathlib import Path

import pytest

from biomamba.metrics.measure import Bootstrap
from biomamba.reporting.groups import run_groups
from biomamba.reporting.inputs import ReportInputs, read_inputs
from biomamba.reporting.score_sections import scaling_section
from biomamba.reporting.scores import ReportScores, report_scores
from biomamba.reporting.section import Section, Table

WriteEvaluation = Callable[..., Path]
WriteRun = Callable[..., Path]

BOOTSTRAP = Bootstrap(num_resamples=20, seed=1)
TOKENS = (1_000, 4_000, 16_000, 64_000)


def section(inputs: ReportInputs) -> Section:
    scores = report_scores(inputs.evaluations, run_groups(inputs.runs))
    return scaling_section(scores, BOOTSTRAP)


def test_runs_that_differ_in_tokens_only_are_fitted(
    write_run: WriteRun, write_evaluation: WriteEvaluation, tmp_path: Path
) -> None:
    folders = [write_run(tmp_path / f"run{t}", tokens=t) for t in TOKENS]
    bits = {f"m{t}": {"web": 1 + 50 / t**0.5} for t in TOKENS}
    paths = {f"m{t}": str(tmp_path / f"run{t}" / "model") for t in TOKENS}
    folder = write_evaluation(tmp_path / "a", bits, paths)
    inputs = read_inputs([*folders, folder])
    table = section(inputs).parts[1]
    assert isinstance(table, Table)
    (row,) = table.rows
    assert row[0] == "web"
    assert [float(cell.split()[0]) for cell in row[2:5]] == pytest.approx([1, 50, 0.5], rel=0.02)
    # With one run fewer, or another precision, three are left.
    told = str(section(ReportInputs(inputs.runs[1:], inputs.evaluations)).parts)
    assert "at least 4 training runs differ in max_tokens only (3 at most here)" in told
    config = folders[0] / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("bf16-mixed", "16-mixed"))
    assert "(3 at most here)" in str(section(inputs).parts)


def test_without_runs_the_section_says_what_is_missing() -> None:
    assert "(none here)" in str(scaling_section(ReportScores(), BOOTSTRAP).parts)


def test_all_seeds_are_points_of_one_fit_and_what_it_does_not_tell_is_said(
    write_run: WriteRun, write_evaluation: WriteEvaluation, tmp_path: Path
) -> None:
    folders, bits, paths = [], {}, {}
    for tokens in TOKENS:
        for seed in (1, 2):
            folder = write_run(tmp_path / f"r{tokens}" / f"seed_{seed}", tokens=tokens)
            config = folder / ".hydra" / "config.yaml"
            config.write_text(config.read_text().replace("seed: 3", f"seed: {seed}"))
            name = f"m{tokens}_{seed}"
            bits[name] = {"web": 5 - tokens / 64_000 + 0.01 * seed}  # falls ever faster: no law
            paths[name] = str(folder / "model")
            folders.append(folder)
    inputs = read_inputs([*folders, write_evaluation(tmp_path / "a", bits, paths)])
    _, table, words = section(inputs).parts
    assert isinstance(table, Table)
    assert "over 8 runs of 4 sizes (r1000, r4000, r16000, r64000)" in table.caption
    assert "documents and seeds" in table.caption
    assert "4 sizes cannot separate E from B on web" in str(words)
