from collections.abc import Callable
from typing import Any

import pytest

from biomamba.planning.duration import (
    Allowance,
    Duration,
    Rate,
    main_memory_bytes_of_node,
    plan_disk,
    plan_duration,
    plan_slurm,
)
from biomamba.planning.hardware import GIB, Hardware
from biomamba.planning.memory import RunSettings

Settings = Callable[..., RunSettings]
V100: dict[str, Any] = {"device": "gpu", "devices_per_node": 8, "memory_gib": 32, "gres": "v100"}
SLOW = Rate("measured", "a test", 4_096 / 3_600)  # all tokens of the run in an hour
ALLOWANCE = Allowance(time_margin_ratio=0.5, start_minutes=30, limit_hours=24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_margin_ratio": -0.1}, "memory_margin_ratio must be .* at least 0, found -"),
        ({"time_margin_ratio": -1}, "time_margin_ratio must be .* at least 0, found -"),
        ({"limit_hours": 0.5, "start_minutes": 30}, "limit_hours must be longer"),
    ],
)
def test_wrong_allowances_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Allowance(**change)


def test_hours_are_tokens_over_rate_and_validation_a_third_of_it(settings: Settings) -> None:
    # Before the first step and after steps 2 and 4: 3 validations of 1,024 positions.
    run = settings(val_positions=1_024, val_every_steps=2)

    found = plan_duration(run, SLOW)

    assert found.training_hours == pytest.approx(1)
    assert found.num_validations == 3
    assert found.validation_hours == pytest.approx(3 * 1_024 / 3 / 4_096)
    assert found.hours == pytest.approx(1.25)


def test_what_is_not_known_is_not_made_up(settings: Settings) -> None:
    unknown = plan_duration(settings(val_every_steps=2), Rate("unknown", "", None))
    assert (unknown.hours, unknown.validation_hours) == (None, None)
    unbounded = plan_duration(settings(val_every_steps=2), SLOW)
    assert unbounded.hours == pytest.approx(1)
    assert unbounded.validation_hours is None


@pytest.mark.parametrize(
    ("hours", "time", "requeues"),
    [
        (1, "02:00:00", 0),  # 1.5 h with the margin, and half an hour to start
        (15, "23:00:00", 0),
        (15.67, "24:00:00", 1),  # 23.505 h, and 23.5 are left of a job
        (31, "24:00:00", 1),
        (32, "24:00:00", 2),
    ],
)
def test_jobs_share_the_hours(hours: float, time: str, requeues: int, settings: Settings) -> None:
    found = plan_slurm(settings(), Hardware(**V100), Duration(hours, None, None), ALLOWANCE, [])

    assert (found.time, found.num_requeues) == (time, requeues)


def test_options_are_those_in_which_the_hardware_differs_from_the_script(
    settings: Settings,
) -> None:
    def options(**changes: Any) -> str:
        hardware = Hardware(**V100 | changes)
        unknown = Duration(None, None, None)
        return plan_slurm(settings(), hardware, unknown, ALLOWANCE, ["a=1", "b=2"]).command

    assert options() == "sbatch slurm/train.sbatch a=1 b=2"
    assert "--gres=gpu:a100:8 " in options(gres="a100")
    assert "--nodes=2 " in options(num_nodes=2)
    assert "--ntasks-per-node=4 --gres=gpu:v100:4 " in options(devices_per_node=4)
    one = options(device="cpu", devices_per_node=1)
    assert "--ntasks-per-node=1 --gres=none " in one


def test_disk_holds_checkpoints_with_states_and_models(settings: Settings) -> None:
    run = settings(ema=True, keep_last=2, keep_every_steps=2)
    count, tensors = run.parameters.total_numel, len(run.parameters.all)

    disk = plan_disk(run, None)

    assert disk.checkpoint_bytes == 16 * count + 4 * tensors  # weights, average, two of Adam
    assert disk.num_checkpoints == 2 + 1 + 2  # the last ones, the new one, steps 2 and 4
    assert disk.model_bytes == 8 * count
    assert (disk.stores_bytes, disk.stores_are_measured) == (2 * 4_096, False)
    assert plan_disk(settings(), 123).stores_bytes == 123
    assert plan_disk(settings(), 123).run_bytes == 4 * count


def test_main_memory_holds_a_model_for_each_rank_or_the_checkpoint(settings: Settings) -> None:
    hardware = Hardware(**V100)
    copies, shards = settings(strategy="ddp"), settings(strategy="fsdp", ema=True, rows=1)
    weights = 4 * copies.parameters.total_numel

    assert main_memory_bytes_of_node(copies, hardware) == 16 * GIB + 8 * weights
    one = Hardware(**V100 | {"devices_per_node": 1})
    checkpoint = plan_disk(shards, None).checkpoint_bytes
    assert main_memory_bytes_of_node(shards, one) == 2 * GIB + checkpoint
