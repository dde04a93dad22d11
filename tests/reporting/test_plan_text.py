from typing import Any

import pytest

from biomamba.data.mixture import TokenBudget
from biomamba.model.config import Mamba2Config
from biomamba.planning.duration import Allowance, measured_rate
from biomamba.planning.hardware import Hardware
from biomamba.planning.memory import Layout, Parameters, RunSettings
from biomamba.planning.plan import Plan, PlanComparison, make_plan
from biomamba.reporting.text import comparison_text, plan_text


def plan(memory_gib: float = 8, **options: Any) -> Plan:
    model = Mamba2Config(d_model=64, n_layer=2, vocab_size=128, headdim=16, d_state=16)
    run = RunSettings(
        model=model,
        parameters=Parameters.described(model, None),
        budget=TokenBudget(4_096, 1_024, 64, 2),
        layout=Layout("single"),
        precision="32-true",
        backend="chunked",
    )
    hardware = Hardware(
        device="gpu",
        devices_per_node=1,
        memory_gib=memory_gib,
        capability=8.0,
        peak_tflops={"32-true": 1.0},
        assumed_utilisation={"chunked": 0.5},
    )
    return make_plan(run, hardware, Allowance(), **options)


def test_an_assumed_rate_is_never_shown_as_a_measured_one() -> None:
    text = plan_text(plan())

    assert "assumed: ASSUMPTION, nothing measured" in text
    assert "\n  measured:" not in text


def test_a_measured_rate_is_shown_with_its_spread() -> None:
    text = plan_text(plan(measured=measured_rate(1_000, [1.0, 2.0, 4.0], "here")))

    assert "rate: 500 tokens/s (slowest step 250, fastest 1,000)" in text
    assert "\n  measured: 3 training steps on here" in text
    assert "ASSUMPTION" not in text


@pytest.mark.parametrize(("memory_gib", "verdict"), [(8, "\nfits;"), (0.001, "\nDOES NOT FIT;")])
def test_the_verdict_is_in_the_text(memory_gib: float, verdict: str) -> None:
    assert verdict in plan_text(plan(memory_gib))


def test_the_line_to_submit_comes_last() -> None:
    last = plan_text(plan(overrides=["+experiment=demo/adapt"])).splitlines()[-1]

    assert last.startswith("submit: sbatch --time=")
    assert last.endswith("slurm/train.sbatch +experiment=demo/adapt")


def test_a_comparison_tells_what_is_not_recorded() -> None:
    rows = [PlanComparison("steps", 4, 4), PlanComparison("hours", 2.0, None)]

    lines = comparison_text(rows).splitlines()

    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["steps", "4", "4", "1.00"]
    assert "not known" in lines[3]
