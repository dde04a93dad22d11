"""The charts of the tab CUSTOM SCALARS."""

import re
from pathlib import Path

import pytest

from biomamba.training.callbacks.tensorboard import chart_layout

SOURCE = Path(__file__).resolve().parents[2] / "biomamba"
DRAWN = [
    ("val/pubmed/nll", "nll (nats per token)"),
    ("val/a_b/perplexity", "perplexity"),
    ("val/web/bits_per_byte", "bits per byte"),
    ("val/loss", "training and validation (nats per token)"),
    ("train/loss", "training and validation (nats per token)"),
    ("train/lr/no_decay", "learning rate"),
    ("train/grad_norm", "gradient norm before clipping"),
    ("train/spikes", "skipped steps and spikes, so far"),
    ("throughput/tokens_per_second", "tokens per second"),
    ("throughput/mean_tokens_per_second", "tokens per second"),
    ("gradient_norm/layer_03", "gradient norm by layer, before clipping"),
]


@pytest.mark.parametrize(("tag", "chart"), DRAWN)
def test_a_curve_is_drawn_in_one_chart(tag: str, chart: str) -> None:
    layout = chart_layout(has_layers=True)
    # TensorBoard draws the tags that an expression matches from their beginning.
    titles = [
        title
        for charts in layout.values()
        for title, (kind, patterns) in charts.items()
        if kind == "Multiline" and any(re.match(pattern, tag) for pattern in patterns)
    ]
    assert titles == [chart]


def test_a_run_without_norms_of_layers_has_no_chart_of_them() -> None:
    assert "gradient norm by layer, before clipping" not in chart_layout()["steps"]
