import json
from collections.abc import Callable
from typing import Any

import pytest

from biomamba.planning.duration import Allowance, measured_rate
from biomamba.planning.hardware import Hardware
from biomamba.planning.memory import Layout, RunSettings
from biomamba.planning.plan import Plan, make_plan
from biomamba.runtime.errors import ConfigError

Settings = Callable[..., RunSettings]


def plan(run: RunSettings, memory_gib: float = 4, ranks: int = 1, **hardware: Any) -> Plan:
    given: dict[str, Any] = {"device": "cpu", "devices_per_node": ranks, "memory_gib": memory_gib}
    return make_plan(run, Hardware(**given | hardware), Allowance())


def test_a_plan_is_plain_values(settings: Settings) -> None:
    found = plan(settings()).to_dict()

    assert json.loads(json.dumps(found)) == found
    assert (found["steps"], found["tokens"]) == (4, 4_096)
    assert found["settings"]["accumulation"] == 8
    assert found["rate"]["kind"] == "unknown"


def test_a_measured_rate_takes_the_place_of_an_assumed_one(settings: Settings) -> None:
    hardware = Hardware(device="cpu", devices_per_node=2, memory_gib=4)
    rate = measured_rate(4_096, [3_600.0], "a test")

    found = make_plan(settings(strategy="ddp"), hardware, Allowance(), measured=rate)

    assert found.rate is rate
    assert (found.duration.hours, found.gpu_hours) == (1, 2)


def test_rows_that_cannot_be_dealt_out_are_refused(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="world_size=3"):
        plan(settings(strategy="ddp"), ranks=3)


def test_a_larger_micro_batch_is_offered_where_it_fits(settings: Settings) -> None:
    found = plan(settings())

    assert found.memory.fits
    assert "data.budget.micro_batch_size=16 is the largest" in found.advice[0]
    assert plan(settings(rows=16)).advice == []


def test_a_smaller_one_is_asked_for_where_it_does_not(settings: Settings) -> None:
    found = plan(settings(rows=16), memory_gib=0.01)

    assert not found.memory.fits
    assert found.rows is not None
    assert found.rows < 16
    assert found.advice[0] == f"does not fit: set data.budget.micro_batch_size={found.rows}"


def test_what_fits_better_is_named_with_its_keys(settings: Settings) -> None:
    """Between what DDP and FSDP2 need for one row; the second option must win."""
    run = settings(strategy="ddp", rows=1)
    needed = {option.layout.text: option.needed_bytes for option in plan(run, ranks=4).options}
    shards = plan(run.with_layout(Layout("fsdp")), ranks=4).memory.needed
    gib = (shards + 1) / 2**30 * 4  # four ranks share a CPU
    assert needed["DDP"] > 0

    found = plan(run, memory_gib=gib, ranks=4)

    fitting = [option for option in found.options if option.rows]
    assert found.memory.fits or any(f"{fitting[0].layout.text} fits" in a for a in found.advice)


def test_nothing_fits_is_said(settings: Settings) -> None:
    found = plan(settings(), memory_gib=0.0001)

    assert found.rows is None
    assert "whatever the micro-batch" in found.advice[0]
    assert "nothing fits" in found.advice[1]


def test_precision_follows_the_card(settings: Settings) -> None:
    gpu: dict[str, Any] = {"device": "gpu", "memory_gib": 80}

    old = plan(settings(precision="bf16-mixed", rows=16), capability=7.0, **gpu)
    new = plan(settings(precision="16-mixed", rows=16), capability=8.0, **gpu)

    assert old.advice == ["this GPU has no bf16: set trainer.precision=16-mixed"]
    assert new.advice[0].endswith("set trainer.precision=bf16-mixed")
