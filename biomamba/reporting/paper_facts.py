"""How a figure of ours was made, by the names that protocols of papers are told with."""

from collections.abc import Mapping
from typing import Any

from biomamba.reporting.run_groups import RunGroup

_CLOSE = 0.01  # numbers that differ by less are equal


def facts_of(group: RunGroup | None) -> dict[str, Any]:
    """Return what the settings and records of training runs tell; nothing without runs."""
    if group is None:
        return {}
    settings = group.settings
    packing = inside(settings, "data", "packing", "_target_")
    weights = inside(settings, "data", "mixture", "weights")
    told = {
        "tokens": group.num_tokens,
        "mixture": weights if isinstance(weights, dict) else None,
        "packing": str(packing).rpartition(".")[2] if packing else None,
        "seq_len": inside(settings, "data", "budget", "seq_len"),
        "tokens_per_step": settings.get("tokens_per_step"),
        "learning_rate": inside(settings, "optimizer", "lr"),
        "averaged_weights": inside(settings, "callbacks", "ema") is not None,
        "vocabulary": inside(settings, "model", "config", "vocab_size"),
        "seeds": len(group.runs),
    }
    return {name: value for name, value in told.items() if value is not None}


def shape_of(group: RunGroup | None) -> tuple[int, int] | None:
    """Return layers and width of the model of a group, where they are known."""
    if group is None:
        return None
    layers = inside(group.settings, "model", "config", "n_layer")
    width = inside(group.settings, "model", "config", "d_model")
    known = isinstance(layers, int) and isinstance(width, int)
    return (layers, width) if known else None


def differences(paper: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Return what of a protocol was done in another way, or is not known of ours."""
    return [
        f"{name.replace('_', ' ')}: paper {_told(wanted)}, ours {_told(ours.get(name))}"
        for name, wanted in paper.items()
        if not _is_same(wanted, ours.get(name))
    ]


def inside(settings: Any, *keys: str) -> Any:
    """Return a value of nested settings; None where there is none."""
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _is_same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict) and isinstance(found, dict):
        names = {name for shares in (wanted, found) for name, share in shares.items() if share}
        return all(_is_near(wanted.get(n, 0), found.get(n, 0), absolute=_CLOSE) for n in names)
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is found
    if isinstance(wanted, int | float) and isinstance(found, int | float):
        return _is_near(wanted, found, absolute=_CLOSE * abs(wanted))
    return bool(wanted == found)


def _is_near(one: float, other: float, absolute: float) -> bool:
    return abs(one - other) <= absolute


def _told(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return " ".join(f"{name} {share:.1%}" for name, share in value.items() if share)
    if isinstance(value, int | float):
        return f"{value:,.0f}" if abs(value) >= 10 else f"{value:g}"
    return str(value)
