from collections.abc import Callable

import pytest

from biomamba.model.config import Mamba1Config
from biomamba.planning.duration import assumed_rate, measured_rate, operations_per_token
from biomamba.planning.hardware import Hardware
from biomamba.planning.memory import Layout, RunSettings

Settings = Callable[..., RunSettings]
GPU = Hardware(
    device="gpu",
    devices_per_node=4,
    memory_gib=80,
    capability=8.0,
    peak_tflops={"bf16-mixed": 100.0},
    assumed_utilisation={"chunked": 0.2},
)


def test_operations_by_hand(settings: Settings) -> None:
    """Two layers of 64: 128 inner channels, 8 heads, 16 states; chunks of 64; 128 words."""
    run = settings()
    blocks = run.parameters.total_numel - 128 * 64
    scan = 2 * 64 * 16 + 2 * 64 * 128 + 4 * 128 * 16  # scores, within chunks, states in and out

    forward = 2 * blocks + 2 * scan

    assert operations_per_token(run) == 3 * forward + 6 * 128 * 64
    again = run.with_layout(Layout("single", activation_checkpointing=True))
    assert operations_per_token(again) == 4 * forward + 6 * 128 * 64


def test_mamba1_has_a_scan_of_its_own(settings: Settings) -> None:
    run = settings(model=Mamba1Config(d_model=64, n_layer=2, vocab_size=128))
    blocks = run.parameters.total_numel - 128 * 64

    assert operations_per_token(run) == 3 * (2 * blocks + 2 * 9 * 128 * 16) + 6 * 128 * 64


def test_an_assumed_rate_says_so_and_is_peak_times_part_over_operations(
    settings: Settings,
) -> None:
    run = settings(precision="bf16-mixed", strategy="ddp")

    rate = assumed_rate(run, GPU)

    assert rate.tokens_per_second == pytest.approx(4 * 100e12 * 0.2 / operations_per_token(run))
    assert rate.kind == "assumed"
    assert rate.source.startswith("ASSUMPTION, nothing measured: 20% of the 100 TFLOP/s")
    assert (rate.low, rate.high) == (None, None)


@pytest.mark.parametrize(
    ("precision", "backend", "lacking"),
    [("32-true", "chunked", "no peak in 32-true"), ("bf16-mixed", "fused", "no utilization of")],
)
def test_without_figures_there_is_no_rate(
    precision: str, backend: str, lacking: str, settings: Settings
) -> None:
    rate = assumed_rate(settings(precision=precision, backend=backend), GPU)

    assert (rate.kind, rate.tokens_per_second) == ("unknown", None)
    assert lacking in rate.source


def test_a_measured_rate_is_that_of_the_median_step_with_its_spread() -> None:
    rate = measured_rate(1_000, [2.0, 1.0, 4.0], "this machine")

    assert (rate.kind, rate.tokens_per_second, rate.low, rate.high) == ("measured", 500, 250, 1_000)
    assert "3 training steps on this machine" in rate.source
    with pytest.raises(ValueError, match="at least one step"):
        measured_rate(1, [], "nowhere")
