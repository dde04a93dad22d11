"""Memory by component: identities, monotony, and the five scales by hand."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from biomamba.data.mixture import TokenBudget
from biomamba.model.config import Mamba2Config
from biomamba.model.lora import Adaptation
from biomamba.planning.hardware import GIB, Hardware
from biomamba.planning.memory import (
    Layout,
    Parameters,
    RunSettings,
    fitting_rows,
    options,
    plan_memory,
)

V100 = Hardware(device="gpu", devices_per_node=8, memory_gib=32, capability=7.0, reserved_gib=1.5)
CPU = Hardware(device="cpu", devices_per_node=1, memory_gib=4)
MARGIN = 0.1
# d_model, layers and parameters of the published scales.
SCALES = {
    "130m": (768, 24, 128_989_632),
    "370m": (1_024, 48, 368_346_624),
    "780m": (1_536, 48, 780_161_280),
    "1_3b": (2_048, 48, 1_343_757_312),
    "2_7b": (2_560, 64, 2_702_599_680),
}
Settings = Callable[..., RunSettings]


@cache
def model_of(name: str) -> tuple[Mamba2Config, Parameters]:
    """Describe a scale once for all tests."""
    d_model, n_layer, _ = SCALES[name]
    model = Mamba2Config(d_model=d_model, n_layer=n_layer, vocab_size=50_277)
    return model, Parameters.described(model, None)


def scale(name: str, layout: Layout, **changes: Any) -> RunSettings:
    model, parameters = model_of(name)
    given: dict[str, Any] = {
        "model": model,
        "parameters": parameters,
        "budget": TokenBudget(524_288_000, 262_144, 1_024, 1),
        "layout": layout,
        "precision": "16-mixed",
        "backend": "chunked",
    }
    return RunSettings(**given | changes)


@pytest.mark.parametrize("name", SCALES)
def test_copies_of_the_five_scales_by_hand(name: str) -> None:
    """4 bytes a number for weights, gradients, buckets and average, 8 and a step for Adam."""
    count = SCALES[name][2]
    tensors = SCALES[name][1] * 9 + 2  # a norm and eight of the mixer, embedding, last norm

    found = plan_memory(scale(name, Layout("ddp"), ema=True), V100, MARGIN).components

    for part in ("weights", "gradients", "communication buckets", "moving average"):
        assert found[part] == 4 * count
    assert found["optimizer states"] == 8 * count + 4 * tensors


def test_shards_of_2_7b_by_hand() -> None:
    """An eighth of everything; whole gradients until the step; half copies of the matrices."""
    count = SCALES["2_7b"][2]
    run = scale("2_7b", Layout("fsdp", activation_checkpointing=True))

    found = plan_memory(run, V100, MARGIN).components

    assert found["weights"] == count // 8 * 4  # all rows are multiples of eight
    assert found["whole gradients"] == 4 * count
    matrices = 2_560 * (10_576 + 5_120) * 64
    assert found["half-precision copies of weights"] == 2 * matrices
    assert found["activations of blocks"] == 64 * 1_024 * 2_560 * 4
    block = (count - 50_288 * 2_560 - 2_560) // 64
    outside = 50_288 * 2_560 + 2_560
    assert found["gathered units"] == 4 * (outside + 3 * block)


def test_2_7b_fits_32_gib_in_shards_only() -> None:
    fitting = {o.text: fitting_rows(scale("2_7b", o), V100, MARGIN) for o in options(8)}

    assert fitting["DDP"] is None
    assert fitting["DDP, activation checkpointing"] is None
    assert fitting["FSDP2, activation checkpointing"]
    assert fitting["FSDP2, sync_every_micro_batch, activation checkpointing"]


@pytest.mark.parametrize("layout", options(8), ids=lambda layout: layout.text)
def test_larger_scales_need_more(layout: Layout) -> None:
    needed = [plan_memory(scale(name, layout), V100, MARGIN).needed for name in SCALES]

    assert all(smaller < larger for smaller, larger in pairwise(needed))


def test_components_margin_and_reserve_add_up(settings: Settings) -> None:
    memory = plan_memory(settings(strategy="ddp"), V100, MARGIN)

    assert memory.peak == sum(memory.components.values())
    assert memory.needed == memory.peak + int(MARGIN * memory.peak) + int(1.5 * GIB)
    assert memory.to_dict()["fits"] is memory.fits is True


def test_frozen_parameters_have_neither_gradients_nor_states(settings: Settings) -> None:
    frozen = Adaptation(freeze=["backbone.layers.*", "backbone.norm_f.weight"])
    run = settings(adaptation=frozen)
    embedding = 128 * 64  # the head is tied to it

    found = plan_memory(run, CPU, MARGIN).components

    assert found["gradients"] == 4 * embedding
    assert found["optimizer states"] == 8 * embedding + 4
    assert found["weights"] == 4 * run.parameters.total_numel


def test_float64_sums_take_eight_bytes_more(settings: Settings) -> None:
    run = settings(gradient_sums="float64", precision="32-true")

    found = plan_memory(run, CPU, MARGIN).components

    assert found["float64 gradient sums"] == 8 * run.parameters.trained_numel
    sharded = settings(gradient_sums="float64", strategy="fsdp", rows=1)
    whole = plan_memory(sharded, V100, MARGIN).components
    assert whole["whole gradients"] == 8 * run.parameters.trained_numel


def test_one_micro_batch_to_a_step_leaves_no_whole_gradients(settings: Settings) -> None:
    two, one = settings(strategy="fsdp", rows=1), settings(strategy="fsdp", rows=2)
    assert one.budget.accumulation(8) == 1

    assert "whole gradients" in plan_memory(two, V100, MARGIN).components
    assert "whole gradients" not in plan_memory(one, V100, MARGIN).components
    synced = two.with_layout(Layout("fsdp", sync_every_micro_batch=True))
    assert "whole gradients" not in plan_memory(synced, V100, MARGIN).components


@pytest.mark.parametrize("memory_gib", [0.01, 0.02, 0.05, 4])
def test_the_largest_micro_batch_fits_divides_and_the_next_does_not_fit(
    memory_gib: float, settings: Settings
) -> None:
    hardware = Hardware(device="cpu", devices_per_node=2, memory_gib=memory_gib)
    run = settings(strategy="ddp")

    rows = fitting_rows(run, hardware, MARGIN)

    def fits(n: int) -> bool:
        return plan_memory(run.with_rows(n), hardware, MARGIN).fits

    sizes = [n for n in (1, 2, 4, 8) if fits(n)]  # the divisors of 16 rows on 2 ranks
    assert rows == max(sizes, default=None)
    if rows:
        assert run.with_rows(rows).budget.accumulation(2) == 8 // rows


def test_rows_that_cannot_be_dealt_out_fit_nowhere(settings: Settings) -> None:
    three = Hardware(device="cpu", devices_per_node=3, memory_gib=64)

    assert fitting_rows(settings(strategy="ddp"), three, MARGIN) is None


def test_checkpointing_and_shards_save_memory() -> None:
    plain, sharded, checkpointed, both, synced = (
        plan_memory(scale("1_3b", layout), V100, MARGIN).needed for layout in options(8)
    )

    assert both < sharded < plain
    assert both < checkpointed < plain
    assert synced < both
