import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from biomamba.planning.duration import Allowance
from biomamba.planning.hardware import GIB, Hardware
from biomamba.planning.memory import RunSettings
from biomamba.planning.plan import Actual, PlanComparison, compare, make_plan, read_actual
from biomamba.runtime.errors import DataError


def write_curves(folder: Path, first_step: int, begin: float) -> None:
    """Write three points, ten seconds apart."""
    with SummaryWriter(str(folder)) as writer:
        for number in range(3):
            step, at = first_step + number, begin + 10 * number
            writer.add_scalar("train/loss", 1.0, step, walltime=at)
            writer.add_scalar("throughput/tokens_per_second", 100.0 + step, step, walltime=at)
            writer.add_scalar("system/peak_memory_gib", 2.0 + step, step, walltime=at)


def test_a_run_is_read_from_its_record_and_its_curves(tmp_path: Path) -> None:
    record = {"parameters": {"total": 9, "trained": 7}, "starts": [{"world_size": 2}]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    write_curves(tmp_path / "tensorboard" / "a", 1, begin=1_000.0)
    write_curves(tmp_path / "tensorboard" / "b", 4, begin=9_000.0)  # hours in the queue between

    found = read_actual(tmp_path)

    assert found.hours == pytest.approx(40 / 3_600)
    assert replace(found, hours=None) == Actual(
        steps=6,
        total_parameters=9,
        trained_parameters=7,
        tokens_per_second=103.5,
        peak_memory_gib=8.0,
        hours=None,
        world_size=2,
    )


def test_what_a_run_has_not_written_is_missing(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")

    assert read_actual(tmp_path) == Actual(None, None, None, None, None, None, None)


@pytest.mark.parametrize("content", [None, "{half"])
def test_a_folder_without_a_record_is_no_run(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)

    with pytest.raises(DataError, match=r"run\.json: (no such file|cannot be read)"):
        read_actual(tmp_path)


def test_ratios_are_actual_over_planned() -> None:
    assert PlanComparison("x", 2.0, 3.0).ratio == 1.5
    assert PlanComparison("x", None, 3.0).ratio is None
    assert PlanComparison("x", 2.0, None).ratio is None
    assert PlanComparison("x", 0.0, 3.0).ratio is None


def test_resident_memory_is_compared_with_that_of_the_libraries(
    settings: Callable[..., RunSettings],
) -> None:
    actual = Actual(4, 1, 1, None, 1.0, None, 1)
    peaks = {}
    for device in ("cpu", "gpu"):
        hardware = Hardware(
            device=device, devices_per_node=1, memory_gib=8, capability=8.0, reserved_gib=0.5
        )
        plan = make_plan(settings(), hardware, Allowance())
        rows = {row.name: row for row in compare(plan.to_dict(), actual)}
        peaks[device] = rows["peak memory (GiB)"].planned
        assert peaks["gpu" if device == "gpu" else "cpu"] is not None
        assert rows["steps"].ratio == 1
        held = plan.memory.peak / GIB
        assert peaks[device] == pytest.approx(held + (0.5 if device == "cpu" else 0))
