"""Which curves TensorBoard's tab CUSTOM SCALARS draws together."""

from typing import Any

from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG

LAYOUT_TAG: str = CONFIG_SUMMARY_TAG

# Regular expressions, so that the layout holds for any sources, also for those of a later start.
_CHARTS: dict[str, dict[str, list[str]]] = {
    "loss": {
        "training and validation (nats per token)": ["train/loss", "val/loss"],
    },
    "validation by source": {
        "nll (nats per token)": ["val/.+/nll"],
        "perplexity": ["val/.+/perplexity"],
        "bits per byte": ["val/.+/bits_per_byte"],
    },
    "steps": {
        "learning rate": ["train/lr/.+"],
        "gradient norm before clipping": ["train/grad_norm"],
        "skipped steps and spikes, so far": ["train/(skipped_steps|spikes)"],
    },
    "data": {
        "tokens, so far": ["data/tokens"],
        "share of the tokens so far": ["data/token_share/.+"],
        "epochs so far": ["data/epochs/.+"],
    },
    "machine": {
        "tokens per second": ["throughput/(mean_)?tokens_per_second"],
        "part of the time that waits for data": ["throughput/data_wait_ratio"],
        "peak memory (GiB)": ["system/peak_memory_gib"],
    },
}
_BY_LAYER = {"gradient norm by layer, before clipping": ["gradient_norm/.+"]}


def chart_layout(*, has_layers: bool = False) -> dict[str, Any]:
    """Return categories, their charts and the tags of each, as `SummaryWriter` takes them.

    Args:
        has_layers: Whether the run writes the norms of single layers.
    """
    steps = _CHARTS["steps"] | (_BY_LAYER if has_layers else {})
    return {
        category: {title: ["Multiline", tags] for title, tags in charts.items()}
        for category, charts in (_CHARTS | {"steps": steps}).items()
    }
