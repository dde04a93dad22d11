"""The settings and figures by which TensorBoard's tab HPARAMS compares runs."""

from collections.abc import Iterable, Mapping
from typing import Any

from biomamba.model.adaptation import ParameterCount
from biomamba.model.language_model import MambaLM

Value = bool | int | float | str

# Name in the table -> where the configuration has it; what a run does not set is left out.
_SETTINGS = {
    "lr": ("optimizer", "lr"),
    "weight_decay": ("optimizer", "weight_decay"),
    "warmup_ratio": ("schedule", "warmup_ratio"),
    "max_tokens": ("max_tokens",),
    "tokens_per_step": ("tokens_per_step",),
    "seq_len": ("data", "budget", "seq_len"),
    "precision": ("trainer", "precision"),
    "seed": ("seed",),
}


def hyper_parameters(
    config: Mapping[str, Any], model: MambaLM, source_weights: Mapping[str, float]
) -> dict[str, Value]:
    """Return the main settings of a run: no paths but that of the checkpoint it began with.

    Args:
        config: The resolved configuration of the program.
        model: What is trained.
        source_weights: Share of each source, averaged over the run.
    """
    found = {name: _at(config, keys) for name, keys in _SETTINGS.items()}
    return {
        "model": str(config["model"].get("checkpoint") or "random weights"),
        "layers": model.config.n_layer,
        "d_model": model.config.d_model,
        "trained_parameters": ParameterCount.of(model).trained,
        **{name: value for name, value in found.items() if isinstance(value, Value)},
        **{f"mixture/{name}": float(weight) for name, weight in source_weights.items()},
    }


def compared_metrics(sources: Iterable[str]) -> list[str]:
    """Return the tags whose last points are the results of a run."""
    figures = [f"val/{name}/{key}" for name in sources for key in ("perplexity", "bits_per_byte")]
    return ["val/loss", *figures, "throughput/mean_tokens_per_second", "data/tokens"]


def _at(config: Mapping[str, Any], keys: Iterable[str]) -> Any:
    found: Any = config
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
