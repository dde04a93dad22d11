"""The `config.json` of the state-spaces checkpoints <-> Mamba2Config.

Source: state-spaces/mamba@bd011a1:mamba_ssm/models/config_mamba.py (top level) and
state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba2.py (ssm_cfg = arguments of the mixer).
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from biomamba.model.config import Mamba2Config
from biomamba.runtime.errors import CheckpointError

_TOP_FIELDS = (
    "d_model",
    "n_layer",
    "vocab_size",
    "pad_vocab_size_multiple",
    "tie_embeddings",
    "residual_in_fp32",
    "rms_norm",
)
_MIXER_FIELDS = (
    "d_state",
    "d_conv",
    "expand",
    "headdim",
    "ngroups",
    "chunk_size",
    "A_init_range",
    "dt_min",
    "dt_max",
    "dt_init_floor",
)
_REQUIRED = ("d_model", "n_layer", "vocab_size")

# Keys whose other values describe a model that is not implemented here.
_TOP_FIXED: Mapping[str, Any] = {"d_intermediate": 0, "attn_layer_idx": [], "attn_cfg": {}}
_MIXER_FIXED: Mapping[str, Any] = {
    "bias": False,
    "conv_bias": True,
    "conv_init": None,
    "d_ssm": None,
    "D_has_hdim": False,
    "dt_limit": [0.0, float("inf")],
    "norm_before_gate": False,
    "rmsnorm": True,
}
# Keys that change how the numbers are computed, not which.
_TOP_HARMLESS = ("fused_add_norm",)
_MIXER_HARMLESS = ("use_mem_eff_path", "layer")
_NOT_ARCHITECTURE = (
    "chunk_size",
    "A_init_range",
    "dt_min",
    "dt_max",
    "dt_init_floor",
    "initializer_range",
)


def parse_config(raw: Mapping[str, Any], source: str) -> Mamba2Config:
    """Turn the content of a state-spaces config.json into a config; `source` names it in errors.

    Raises:
        CheckpointError: It describes another model, lacks a key or has an unknown one.
    """
    _refuse_other_models(raw, source)
    mixer = raw["ssm_cfg"]
    missing = [key for key in _REQUIRED if key not in raw]
    if missing:
        raise CheckpointError(f"{source}: keys missing: {', '.join(missing)}")
    known = (*_TOP_FIELDS, *_TOP_HARMLESS, "ssm_cfg", "norm_epsilon", "initializer_cfg")
    problems = _problems(raw, "", known, _TOP_FIXED)
    problems += _problems(mixer, "ssm_cfg.", (*_MIXER_FIELDS, *_MIXER_HARMLESS), _MIXER_FIXED)
    initializer = raw.get("initializer_cfg") or {}
    problems += _problems(initializer, "initializer_cfg.", ("initializer_range",), {})
    if problems:
        raise CheckpointError(
            f"{source}: not a Mamba2 model that can be built here: {'; '.join(problems)}"
        )
    values = {key: raw[key] for key in _TOP_FIELDS if key in raw}
    values |= {key: mixer[key] for key in _MIXER_FIELDS if key in mixer}
    values |= initializer
    if "norm_epsilon" in raw:
        values["norm_eps"] = raw["norm_epsilon"]
    try:
        return Mamba2Config(**values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: {error}") from error


def render_config(config: Mamba2Config) -> dict[str, Any]:
    """Return the state-spaces config.json of a config; defaults of the mixer are left out."""
    defaults = {field.name: field.default for field in fields(Mamba2Config)}
    changed = {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if getattr(config, field.name) != defaults[field.name]
    }
    mixer = {"layer": "Mamba2"} | {key: changed[key] for key in _MIXER_FIELDS if key in changed}
    raw: dict[str, Any] = {key: getattr(config, key) for key in _TOP_FIELDS}
    raw |= {"ssm_cfg": mixer, "fused_add_norm": True, **_TOP_FIXED}
    if "norm_eps" in changed:
        raw["norm_epsilon"] = config.norm_eps
    if "initializer_range" in changed:
        raw["initializer_cfg"] = {"initializer_range": config.initializer_range}
    return raw


def architecture_differences(config: Mamba2Config, checkpoint: Mamba2Config) -> list[str]:
    """Describe each field in which a checkpoint does not fit a config, as `field: config X, ...`.

    Initialisation and chunk length do not count. A checkpoint whose vocab_size is the padded size
    of the config fits: some publish that number.
    """
    differences = []
    for field in fields(config):
        ours, theirs = getattr(config, field.name), getattr(checkpoint, field.name)
        if field.name in _NOT_ARCHITECTURE or ours == theirs:
            continue
        if field.name == "vocab_size" and theirs == config.padded_vocab_size:
            continue
        differences.append(f"{field.name}: config {ours}, checkpoint {theirs}")
    return differences


def _refuse_other_models(raw: Mapping[str, Any], source: str) -> None:
    if "model_type" in raw or "hidden_size" in raw:
        raise CheckpointError(
            f"{source}: this is a transformers checkpoint (model_type "
            f"{raw.get('model_type', 'unknown')!r}); give one in the state-spaces layout, such as "
            "state-spaces/mamba2-130m"
        )
    mixer = raw.get("ssm_cfg")
    if not isinstance(mixer, Mapping):
        raise CheckpointError(f"{source}: no ssm_cfg, so not a state-spaces Mamba2 checkpoint")
    layer = mixer.get("layer", "Mamba1")  # mamba_ssm's default
    if layer != "Mamba2":
        raise CheckpointError(
            f"{source}: ssm_cfg.layer is {layer!r}; only Mamba2 checkpoints can be loaded, such as "
            "state-spaces/mamba2-130m"
        )


def _problems(
    raw: Mapping[str, Any], prefix: str, known: tuple[str, ...], fixed: Mapping[str, Any]
) -> list[str]:
    problems = []
    for key, value in raw.items():
        if key in fixed:
            plain = list(value) if isinstance(value, tuple) else value
            if plain != fixed[key]:
                problems.append(f"{prefix}{key} is {value!r}, only {fixed[key]!r} is implemented")
        elif key not in known:
            problems.append(f"{prefix}{key} is an unknown key")
    return problems
