"""Time and memory over length in a report."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from biomamba.reporting.efficiency import Measured, efficiency_sections
from biomamba.reporting.section import Picture, Section, Table
from biomamba.timing.records import EfficiencyRecord, Point, rates

LENGTHS = [512, 1_024, 2_048, 4_096]
ORIGIN = {"machine": {"cpu": "CPU", "num_cores": 2, "gpus": []}, "git": None}


def record(phase: str, model: str, length: int, seconds: float, **changes: Any) -> EfficiencyRecord:
    new_tokens = 4 if phase == "decode" else None
    times = [seconds * (new_tokens or 1) * factor for factor in (1.0, 0.5, 2.0)]
    figures = rates(Point(phase, 1, length), 4, times, 1e9, [1.0], 2e9)
    values: dict[str, Any] = {
        "phase": phase,
        "model": model,
        "num_parameters": 5_000_000 if model == "mamba2" else 5_001_000,
        "shape": {"n_layer": 8, "d_model": 256},
        "batch": 1,
        "length": length,
        "precision": "bf16-mixed",
        "device": "cpu",
        "new_tokens": new_tokens,
        "seconds": times,
        "failure": None,
        "operations": 1e9,
        "held_bytes": 2**29,
        "growth_bytes": 2**30,
        "conditions": {"threads": 2},
        "provenance": ORIGIN,
        **vars(figures),
    }
    return EfficiencyRecord(**{**values, **changes})


def failed(phase: str, model: str, length: int) -> EfficiencyRecord:
    nothing = dict.fromkeys(("held_bytes", "growth_bytes", "tokens_per_second", "utilisation"))
    measured = record(phase, model, length, 1.0)
    return replace(measured, seconds=[], failure="no memory", **nothing)


def linear_against_quadratic() -> list[EfficiencyRecord]:
    """n / 1,000 against (n / 1,000)^2 seconds: they cross at 1,000 tokens."""
    return [
        record("train", model, length, (length / 1_000) ** power)
        for length in LENGTHS
        for model, power in (("mamba2", 1), ("transformer", 2))
    ]


def section_of(records: list[EfficiencyRecord], *more: Measured) -> Section:
    (section,) = efficiency_sections(
        [Measured(name="bench", folder=Path("runs/bench"), records=records), *more]
    )
    return section


def table(section: Section, name: str) -> Table:
    (found,) = (p for p in section.parts if isinstance(p, Table) and p.name == name)
    return found


def test_without_measurements_there_is_no_section() -> None:
    assert efficiency_sections([]) == []
    assert efficiency_sections([Measured(name="a", folder=Path("a"), records=[])]) == []


def test_exponents_are_those_of_the_times() -> None:
    ours, theirs = table(section_of(linear_against_quadratic()), "efficiency_growth").rows

    head = ["train", "mamba2", "1", "512 to 4,096"]
    assert ours == [*head, "1.00 [1.00, 1.00]", "0%", "-", "0%"]
    assert theirs[4:6] == ["2.00 [2.00, 2.00]", "100%"]


def test_digits_of_the_growth_are_in_its_file() -> None:
    found = table(section_of(linear_against_quadratic()), "efficiency_growth")
    ours, theirs = csv.DictReader(io.StringIO(found.csv()))

    assert float(ours["linear"]) == pytest.approx(1e-3)
    assert float(theirs["quadratic"]) == pytest.approx(1e-6)
    assert float(ours["fixed"]) == pytest.approx(0, abs=1e-9)


def test_where_curves_cross_is_told() -> None:
    texts = [p for p in section_of(linear_against_quadratic()).parts if isinstance(p, str)]

    assert texts[-1] == (
        "bench, train, 1 row: the curves cross at about 1,000 tokens; at 4,096 tokens mamba2 is "
        "4.10 times as fast."
    )
    never = [r for r in linear_against_quadratic() if r.length > 1_000]
    texts = [p for p in section_of(never).parts if isinstance(p, str)]
    assert "do not cross between the measured lengths; at 4,096 tokens mamba2" in texts[-1]


def test_models_hardware_and_counts_are_told() -> None:
    text = section_of(linear_against_quadratic()).parts[0]

    assert isinstance(text, str)
    assert "mamba2 5,000,000 parameters (8 blocks of 256)" in text
    assert "transformer 5,001,000 parameters" in text
    assert "bf16-mixed on CPU, 2 threads" in text


def test_every_point_has_a_row_and_what_failed_says_so() -> None:
    records = [
        record("decode", "mamba2", 512, 0.003),
        failed("train", "transformer", 1_024),
        record("train", "transformer", 512, 2.0),
    ]
    found = table(section_of(records), "efficiency_points")
    train = ["bench", "train", "transformer", "1"]

    assert found.rows == [
        # 512 tokens in 2 s; 1e9 operations in 2 s of 2e9 a second; 1.5 GiB.
        [*train, "512", "2,000.0 (1,000.0 to 4,000.0)", "256", "1.5", "25.0%"],
        [*train, "1,024", "out of memory", "-", "-", "-"],
        ["bench", "decode", "mamba2", "1", "512", "3.0 (1.5 to 6.0)", "333", "1.5", "4166.7%"],
    ]
    rows = list(csv.DictReader(io.StringIO(found.csv())))
    assert [row["failure"] for row in rows] == ["", "no memory", ""]
    assert float(rows[2]["seconds"]) == pytest.approx(0.003)


def test_one_length_has_no_growth_and_still_a_picture() -> None:
    section = section_of([record("train", "mamba2", 512, 1.0), failed("train", "other", 512)])

    kinds = [type(part) for part in section.parts]
    assert kinds == [str, Picture, Table]


def test_parts_of_two_folders_have_names_of_their_own() -> None:
    records = linear_against_quadratic()
    other = Measured(name="gpu", folder=Path("runs/gpu"), records=records)
    names = [p.name for p in section_of(records, other).parts if isinstance(p, Table | Picture)]

    assert names == [
        *("efficiency_plot_1", "efficiency_growth_1", "efficiency_plot_2", "efficiency_growth_2"),
        "efficiency_points",
    ]


def test_a_gpu_is_told_where_it_was_used() -> None:
    origin = {"machine": {"cpu": "CPU", "gpus": ["NVIDIA H200"]}}
    one = record("train", "mamba2", 512, 1.0, device="cuda", provenance=origin)

    assert "bf16-mixed on NVIDIA H200." in str(section_of([one]).parts[0])
