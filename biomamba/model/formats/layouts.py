"""The four published layouts of Mamba-1 and Mamba2 checkpoints: config keys and tensor names."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.runtime.errors import CheckpointError

# -------------------------------------------------------------------------------------------------
# What a layout of checkpoints is, and how its table is applied to a config.json.
#
# Each layout is a table in a module of its own; nothing here knows one of them. Keys of a
# config.json are written as paths: `ssm_cfg.d_state` is `d_state` in the object `ssm_cfg`.
# -------------------------------------------------------------------------------------------------

# Objects in a config.json whose keys are looked at one by one; others are plain values.
_SHOWN = 10
_SECTIONS = ("ssm_cfg", "initializer_cfg", "biomamba")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The table of one layout for one kind of model.

    Attributes:
        name: Name of the layout.
        config_class: What its config.json is read into.
        fields: Key -> field of the config.
        required: Keys that must be there.
        optional: Keys that are left out where they have their default.
        defaults: Key -> what the publisher's library takes for a missing key; the default of the
            field where the table is silent.
        fallbacks: Key -> another key whose value stands in for it when it is missing.
        derived: Key -> property of the config; written, and checked when read.
        repeated: Key -> property of the config; checked when read.
        constants: Key -> what is always written there; any value is taken when read.
        fixed: Key -> the only value that is implemented.
        ignored: Keys that do not describe the model.
        tensors: Our name of a tensor -> its name in the files; {} is the number of a block.
        aliases: Other names in the files -> our name.
        static_tensors: Further ones of models with static dt, B or C, like `tensors`.
    """

    name: Literal["state_spaces", "transformers"]
    config_class: type[MambaConfig]
    fields: Mapping[str, str]
    required: tuple[str, ...]
    tensors: Mapping[str, str]
    optional: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    derived: Mapping[str, str] = field(default_factory=dict)
    repeated: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict)
    static_tensors: Mapping[str, str] = field(default_factory=dict)

    def parse(self, raw: Mapping[str, Any], source: str) -> MambaConfig:
        """Turn the content of a config.json into a config; `source` names it in errors.

        Raises:
            CheckpointError: It lacks a key, has an unknown one, or describes a model that is not
                implemented or that no model can be.
        """
        flat = dict(_flatten(raw))
        problems = [f"{key} is missing" for key in self.required if key not in flat]
        problems += self._unknown(flat)
        _refuse(problems, source, f"not a {self.config_class.layer} model that can be built here")
        values = {name: self._value(key, flat) for key, name in self.fields.items()}
        problems = [
            f"{key} is {values[name]!r}, must be true or false"
            for key, name in self.fields.items()
            if isinstance(self._default(key), bool) and not isinstance(values[name], bool)
        ]
        _refuse(problems, source, "wrong type")
        try:
            config = self.config_class(**values)
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{source}: {str(error)[:300]}") from error
        checked = {**self.derived, **self.repeated}
        problems = [
            f"{key} is {flat[key]!r}, but the other keys make it {getattr(config, name)!r}"
            for key, name in checked.items()
            if key in flat and flat[key] != getattr(config, name)
        ]
        _refuse(problems, source, "contradicts itself")
        return config

    def render(self, config: MambaConfig) -> dict[str, Any]:
        """Return the config.json of a config.

        Raises:
            CheckpointError: The layout has no key for what makes the model another one.
        """
        problems = [
            f"{found.name} is {getattr(config, found.name)!r}, for which there is no key"
            for found in fields(config)
            if found.name not in self.fields.values()
            and getattr(config, found.name) != found.default
        ]
        _refuse(problems, f"layout {self.name}", "cannot hold this model")
        flat = dict(self.constants)
        flat |= {key: getattr(config, name) for key, name in self.derived.items()}
        for key, name in self.fields.items():
            value = getattr(config, name)
            if key not in self.optional or value != self._default(key):
                flat[key] = list(value) if isinstance(value, tuple) else value
        raw: dict[str, Any] = {}
        for key, value in flat.items():
            section, _, name = key.rpartition(".")
            (raw.setdefault(section, {}) if section else raw)[name] = value
        return raw

    def stored_names(self, config: MambaConfig) -> dict[str, str]:
        """Return our name of every tensor, in the model's order -> its name in the files.

        With static dt, B or C there are names more than tensors.
        """
        static = self.static_tensors if config.static else {}
        return dict(_expanded({**self.tensors, **static}, config))

    def own_names(self, config: MambaConfig) -> dict[str, str]:
        """Return every name that a tensor may have in the files -> our name."""
        return {
            **{stored: own for own, stored in self.stored_names(config).items()},
            **dict(_expanded(self.aliases, config)),
        }

    def _value(self, key: str, flat: Mapping[str, Any]) -> Any:
        for name in (key, self.fallbacks.get(key, key)):
            if name in flat:
                return flat[name]
        return self._default(key)

    def _default(self, key: str) -> Any:
        """Return what a missing key means; None for one that has no meaning."""
        if key in self.defaults:
            return self.defaults[key]
        name = self.fields[key]
        default = next(found.default for found in fields(self.config_class) if found.name == name)
        return None if default is MISSING else default

    def _unknown(self, flat: Mapping[str, Any]) -> list[str]:
        """Describe keys that are unknown, and values that are not implemented."""
        known = {*self.fields, *self.derived, *self.repeated, *self.constants, *self.ignored}
        problems = []
        for key, value in flat.items():
            if key in self.fixed:
                if _plain(value) != _plain(self.fixed[key]):
                    problems.append(f"{key} is {value!r}, only {self.fixed[key]!r} is implemented")
            elif key not in known:
                problems.append(f"{key} is an unknown key")
        return problems


def _flatten(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in raw.items():
        if key in _SECTIONS and isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        elif key not in _SECTIONS or value is not None:
            yield key, value


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; infinity is spelt in three ways in the wild."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value in ("Infinity", {"__float__": "Infinity"}):
        return math.inf
    return value


def _expanded(names: Mapping[str, str], config: MambaConfig) -> Iterator[tuple[str, str]]:
    """Repeat the names of a block for every block; names of a block are together."""
    block = {key: value for key, value in names.items() if "{}" in key}
    is_done = False
    for key, value in names.items():
        if key not in block:
            if key != "lm_head.weight" or not config.tie_embeddings:
                yield key, value
        elif not is_done:
            is_done = True
            for number in range(config.n_layer):
                yield from ((k.format(number), v.format(number)) for k, v in block.items())


def _refuse(problems: list[str], source: str, what: str) -> None:
    if problems:
        shown = [problem if len(problem) < 200 else f"{problem[:200]}..." for problem in problems]
        more = f"; and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        raise CheckpointError(f"{source}: {what}: {'; '.join(shown[:_SHOWN])}{more}")


# -------------------------------------------------------------------------------------------------
# Mamba-1 as the authors publish it: state-spaces/mamba-130m and its larger ones.
#
# Source: state-spaces/mamba@bd011a1:mamba_ssm/models/config_mamba.py (top level, with its defaults)
# and state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba_simple.py (ssm_cfg = arguments of the
# mixer). The published files have an empty ssm_cfg and neither tie_embeddings nor the keys of
# attention.
# -------------------------------------------------------------------------------------------------

STATE_SPACES_MAMBA1 = Layout(
    name="state_spaces",
    config_class=Mamba1Config,
    fields=MappingProxyType(
        {
            "d_model": "d_model",
            "n_layer": "n_layer",
            "vocab_size": "vocab_size",
            "pad_vocab_size_multiple": "pad_vocab_size_multiple",
            "tie_embeddings": "tie_embeddings",
            "residual_in_fp32": "residual_in_fp32",
            "rms_norm": "rms_norm",
            "norm_epsilon": "norm_eps",
            "initializer_cfg.initializer_range": "initializer_range",
            "biomamba.static": "static",
            "ssm_cfg.d_state": "d_state",
            "ssm_cfg.d_conv": "d_conv",
            "ssm_cfg.expand": "expand",
            "ssm_cfg.dt_rank": "dt_rank",
            "ssm_cfg.dt_min": "dt_min",
            "ssm_cfg.dt_max": "dt_max",
            "ssm_cfg.dt_init": "dt_init",
            "ssm_cfg.dt_scale": "dt_scale",
            "ssm_cfg.dt_init_floor": "dt_init_floor",
        }
    ),
    required=("d_model", "n_layer", "vocab_size"),
    optional=frozenset(
        {
            "norm_epsilon",
            "initializer_cfg.initializer_range",
            "biomamba.static",
            "ssm_cfg.d_state",
            "ssm_cfg.d_conv",
            "ssm_cfg.expand",
            "ssm_cfg.dt_rank",
            "ssm_cfg.dt_min",
            "ssm_cfg.dt_max",
            "ssm_cfg.dt_init",
            "ssm_cfg.dt_scale",
            "ssm_cfg.dt_init_floor",
        }
    ),
    constants=MappingProxyType({"ssm_cfg.layer": "Mamba1", "fused_add_norm": True}),
    fixed=MappingProxyType(
        {
            "d_intermediate": 0,
            "attn_layer_idx": [],
            "attn_cfg": {},
            "ssm_cfg.layer": "Mamba1",
            "ssm_cfg.bias": False,
            "ssm_cfg.conv_bias": True,
        }
    ),
    # How the numbers are computed, not which; and what publishers add for other libraries.
    ignored=frozenset(
        {
            "fused_add_norm",
            "ssm_cfg.use_fast_path",
            "model_type",
            "architectures",
            "dtype",
            "torch_dtype",
        }
    ),
    tensors=MappingProxyType(
        {
            "backbone.embedding.weight": "backbone.embedding.weight",
            "backbone.layers.{}.norm.weight": "backbone.layers.{}.norm.weight",
            "backbone.layers.{}.mixer.A_log": "backbone.layers.{}.mixer.A_log",
            "backbone.layers.{}.mixer.D": "backbone.layers.{}.mixer.D",
            "backbone.layers.{}.mixer.in_proj.weight": "backbone.layers.{}.mixer.in_proj.weight",
            "backbone.layers.{}.mixer.conv1d.weight": "backbone.layers.{}.mixer.conv1d.weight",
            "backbone.layers.{}.mixer.conv1d.bias": "backbone.layers.{}.mixer.conv1d.bias",
            "backbone.layers.{}.mixer.x_proj.weight": "backbone.layers.{}.mixer.x_proj.weight",
            "backbone.layers.{}.mixer.dt_proj.weight": "backbone.layers.{}.mixer.dt_proj.weight",
            "backbone.layers.{}.mixer.dt_proj.bias": "backbone.layers.{}.mixer.dt_proj.bias",
            "backbone.layers.{}.mixer.out_proj.weight": "backbone.layers.{}.mixer.out_proj.weight",
            "backbone.norm_f.weight": "backbone.norm_f.weight",
            "lm_head.weight": "lm_head.weight",
        }
    ),
    static_tensors=MappingProxyType(
        {
            "backbone.layers.{}.mixer.B": "backbone.layers.{}.mixer.B",
            "backbone.layers.{}.mixer.C": "backbone.layers.{}.mixer.C",
            "backbone.layers.{}.mixer.dt_bias": "backbone.layers.{}.mixer.dt_bias",
        }
    ),
    aliases=MappingProxyType({"backbone.embeddings.weight": "backbone.embedding.weight"}),
)

# -------------------------------------------------------------------------------------------------
# Mamba2 as the authors publish it: state-spaces/mamba2-130m and its larger ones.
#
# Source: state-spaces/mamba@bd011a1:mamba_ssm/models/config_mamba.py (top level, with its defaults)
# and state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba2.py (ssm_cfg = arguments of the mixer). The
# keys norm_epsilon and initializer_cfg are arguments of its MambaLMHeadModel, not of its config.
# -------------------------------------------------------------------------------------------------

STATE_SPACES_MAMBA2 = Layout(
    name="state_spaces",
    config_class=Mamba2Config,
    fields=MappingProxyType(
        {
            "d_model": "d_model",
            "n_layer": "n_layer",
            "vocab_size": "vocab_size",
            "pad_vocab_size_multiple": "pad_vocab_size_multiple",
            "tie_embeddings": "tie_embeddings",
            "residual_in_fp32": "residual_in_fp32",
            "rms_norm": "rms_norm",
            "norm_epsilon": "norm_eps",
            "initializer_cfg.initializer_range": "initializer_range",
            "biomamba.static": "static",
            "ssm_cfg.d_state": "d_state",
            "ssm_cfg.d_conv": "d_conv",
            "ssm_cfg.expand": "expand",
            "ssm_cfg.headdim": "headdim",
            "ssm_cfg.ngroups": "ngroups",
            "ssm_cfg.chunk_size": "chunk_size",
            "ssm_cfg.A_init_range": "A_init_range",
            "ssm_cfg.dt_min": "dt_min",
            "ssm_cfg.dt_max": "dt_max",
            "ssm_cfg.dt_init_floor": "dt_init_floor",
        }
    ),
    required=("d_model", "n_layer", "vocab_size"),
    optional=frozenset(
        {
            "norm_epsilon",
            "initializer_cfg.initializer_range",
            "biomamba.static",
            "ssm_cfg.d_state",
            "ssm_cfg.d_conv",
            "ssm_cfg.expand",
            "ssm_cfg.headdim",
            "ssm_cfg.ngroups",
            "ssm_cfg.chunk_size",
            "ssm_cfg.A_init_range",
            "ssm_cfg.dt_min",
            "ssm_cfg.dt_max",
            "ssm_cfg.dt_init_floor",
        }
    ),
    defaults=MappingProxyType({"pad_vocab_size_multiple": 8}),
    constants=MappingProxyType(
        {
            "d_intermediate": 0,
            "ssm_cfg.layer": "Mamba2",
            "attn_layer_idx": [],
            "attn_cfg": {},
            "fused_add_norm": True,
        }
    ),
    fixed=MappingProxyType(
        {
            "d_intermediate": 0,
            "attn_layer_idx": [],
            "attn_cfg": {},
            "ssm_cfg.layer": "Mamba2",
            "ssm_cfg.bias": False,
            "ssm_cfg.conv_bias": True,
            "ssm_cfg.conv_init": None,
            "ssm_cfg.d_ssm": None,
            "ssm_cfg.D_has_hdim": False,
            "ssm_cfg.dt_limit": [0.0, math.inf],
            "ssm_cfg.norm_before_gate": False,
            "ssm_cfg.rmsnorm": True,
        }
    ),
    # How the numbers are computed, not which; and what publishers add for other libraries.
    ignored=frozenset(
        {
            "fused_add_norm",
            "ssm_cfg.use_mem_eff_path",
            "model_type",
            "architectures",
            "dtype",
            "torch_dtype",
        }
    ),
    tensors=MappingProxyType(
        {
            "backbone.embedding.weight": "backbone.embedding.weight",
            "backbone.layers.{}.norm.weight": "backbone.layers.{}.norm.weight",
            "backbone.layers.{}.mixer.dt_bias": "backbone.layers.{}.mixer.dt_bias",
            "backbone.layers.{}.mixer.A_log": "backbone.layers.{}.mixer.A_log",
            "backbone.layers.{}.mixer.D": "backbone.layers.{}.mixer.D",
            "backbone.layers.{}.mixer.in_proj.weight": "backbone.layers.{}.mixer.in_proj.weight",
            "backbone.layers.{}.mixer.conv1d.weight": "backbone.layers.{}.mixer.conv1d.weight",
            "backbone.layers.{}.mixer.conv1d.bias": "backbone.layers.{}.mixer.conv1d.bias",
            "backbone.layers.{}.mixer.norm.weight": "backbone.layers.{}.mixer.norm.weight",
            "backbone.layers.{}.mixer.out_proj.weight": "backbone.layers.{}.mixer.out_proj.weight",
            "backbone.norm_f.weight": "backbone.norm_f.weight",
            "lm_head.weight": "lm_head.weight",
        }
    ),
    static_tensors=MappingProxyType(
        {
            "backbone.layers.{}.mixer.B": "backbone.layers.{}.mixer.B",
            "backbone.layers.{}.mixer.C": "backbone.layers.{}.mixer.C",
        }
    ),
    aliases=MappingProxyType({"backbone.embeddings.weight": "backbone.embedding.weight"}),
)

# -------------------------------------------------------------------------------------------------
# Mamba2 as transformers has it: model_type mamba2, class Mamba2ForCausalLM.
#
# Source: huggingface/transformers@v5.0.0:src/transformers/models/mamba2/configuration_mamba2.py
# (keys and defaults) and modeling_mamba2.py (names of tensors). What its config has no key for is
# in an object `biomamba`, which transformers keeps and ignores: the vocabulary before padding,
# above all.
# -------------------------------------------------------------------------------------------------

# Keys of any config.json of transformers that say nothing about what a model computes.
NOT_THE_MODEL = frozenset(
    {
        "_name_or_path",
        "architectures",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "fused_add_norm",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pad_vocab_size_multiple",
        "problem_type",
        "rescale_prenorm_residual",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
TRANSFORMERS_MAMBA2 = Layout(
    name="transformers",
    config_class=Mamba2Config,
    fields=MappingProxyType(
        {
            "hidden_size": "d_model",
            "num_hidden_layers": "n_layer",
            "state_size": "d_state",
            "conv_kernel": "d_conv",
            "expand": "expand",
            "head_dim": "headdim",
            "n_groups": "ngroups",
            "chunk_size": "chunk_size",
            "layer_norm_epsilon": "norm_eps",
            "tie_word_embeddings": "tie_embeddings",
            "residual_in_fp32": "residual_in_fp32",
            "initializer_range": "initializer_range",
            "time_step_min": "dt_min",
            "time_step_max": "dt_max",
            "time_step_floor": "dt_init_floor",
            "biomamba.vocab_size": "vocab_size",
            "biomamba.pad_vocab_size_multiple": "pad_vocab_size_multiple",
            "biomamba.A_init_range": "A_init_range",
        }
    ),
    required=("hidden_size", "num_hidden_layers", "vocab_size"),
    defaults=MappingProxyType(
        {
            "state_size": 128,
            "conv_kernel": 4,
            "expand": 2,
            "head_dim": 64,
            "n_groups": 8,
            "chunk_size": 256,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": False,
            "residual_in_fp32": True,
            "initializer_range": 0.1,
            "time_step_min": 0.001,
            "time_step_max": 0.1,
            "time_step_floor": 1e-4,
            "biomamba.pad_vocab_size_multiple": 1,
        }
    ),
    fallbacks=MappingProxyType({"biomamba.vocab_size": "vocab_size"}),
    derived=MappingProxyType({"vocab_size": "padded_vocab_size", "num_heads": "nheads"}),
    repeated=MappingProxyType(
        {"intermediate_size": "d_inner", "d_inner": "d_inner", "d_model": "d_model"}
        | {"n_layer": "n_layer"}
    ),
    constants=MappingProxyType({"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2"}),
    fixed=MappingProxyType(
        {
            "hidden_act": "silu",
            "rms_norm": True,
            "time_step_limit": [0.0, math.inf],
            "use_bias": False,
            "use_conv_bias": True,
        }
    ),
    # Mamba2 has no time_step_rank; the gate comes before the norm whatever norm_before_gate says.
    ignored=NOT_THE_MODEL | {"norm_before_gate", "time_step_rank"},
    tensors=MappingProxyType(
        {
            "backbone.embedding.weight": "backbone.embeddings.weight",
            "backbone.layers.{}.norm.weight": "backbone.layers.{}.norm.weight",
            "backbone.layers.{}.mixer.dt_bias": "backbone.layers.{}.mixer.dt_bias",
            "backbone.layers.{}.mixer.A_log": "backbone.layers.{}.mixer.A_log",
            "backbone.layers.{}.mixer.D": "backbone.layers.{}.mixer.D",
            "backbone.layers.{}.mixer.in_proj.weight": "backbone.layers.{}.mixer.in_proj.weight",
            "backbone.layers.{}.mixer.conv1d.weight": "backbone.layers.{}.mixer.conv1d.weight",
            "backbone.layers.{}.mixer.conv1d.bias": "backbone.layers.{}.mixer.conv1d.bias",
            "backbone.layers.{}.mixer.norm.weight": "backbone.layers.{}.mixer.norm.weight",
            "backbone.layers.{}.mixer.out_proj.weight": "backbone.layers.{}.mixer.out_proj.weight",
            "backbone.norm_f.weight": "backbone.norm_f.weight",
            "lm_head.weight": "lm_head.weight",
        }
    ),
    aliases=MappingProxyType({"backbone.embedding.weight": "backbone.embedding.weight"}),
)

# -------------------------------------------------------------------------------------------------
# Mamba-1 as transformers has it: model_type mamba, class MambaForCausalLM.
#
# Source: huggingface/transformers@v5.0.0:src/transformers/models/mamba/configuration_mamba.py (keys
# and defaults) and modeling_mamba.py (names of tensors). What its config has no key for is in an
# object `biomamba`, which transformers keeps and ignores: the vocabulary before padding, above all.
# -------------------------------------------------------------------------------------------------

TRANSFORMERS_MAMBA1 = Layout(
    name="transformers",
    config_class=Mamba1Config,
    fields=MappingProxyType(
        {
            "hidden_size": "d_model",
            "num_hidden_layers": "n_layer",
            "state_size": "d_state",
            "conv_kernel": "d_conv",
            "expand": "expand",
            "layer_norm_epsilon": "norm_eps",
            "tie_word_embeddings": "tie_embeddings",
            "residual_in_fp32": "residual_in_fp32",
            "initializer_range": "initializer_range",
            "time_step_min": "dt_min",
            "time_step_max": "dt_max",
            "time_step_floor": "dt_init_floor",
            "time_step_init_scheme": "dt_init",
            "time_step_scale": "dt_scale",
            "biomamba.dt_rank": "dt_rank",
            "biomamba.vocab_size": "vocab_size",
            "biomamba.pad_vocab_size_multiple": "pad_vocab_size_multiple",
        }
    ),
    required=("hidden_size", "num_hidden_layers", "vocab_size"),
    defaults=MappingProxyType(
        {
            "state_size": 16,
            "conv_kernel": 4,
            "expand": 2,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
            "residual_in_fp32": True,
            "initializer_range": 0.1,
            "time_step_min": 0.001,
            "time_step_max": 0.1,
            "time_step_floor": 1e-4,
            "time_step_init_scheme": "random",
            "time_step_scale": 1.0,
            "biomamba.dt_rank": "auto",
            "biomamba.pad_vocab_size_multiple": 1,
        }
    ),
    fallbacks=MappingProxyType(
        {"biomamba.vocab_size": "vocab_size", "biomamba.dt_rank": "time_step_rank"}
    ),
    derived=MappingProxyType(
        {
            "vocab_size": "padded_vocab_size",
            "intermediate_size": "d_inner",
            "time_step_rank": "step_rank",
        }
    ),
    repeated=MappingProxyType({"d_inner": "d_inner", "d_model": "d_model", "n_layer": "n_layer"}),
    constants=MappingProxyType({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}),
    fixed=MappingProxyType(
        {
            "hidden_act": "silu",
            "rms_norm": True,
            "time_step_limit": [0.0, math.inf],
            "use_bias": False,
            "use_conv_bias": True,
        }
    ),
    # How the numbers are computed, not which.
    ignored=NOT_THE_MODEL | {"use_associative_scan", "use_mambapy"},
    tensors=MappingProxyType(
        {
            "backbone.embedding.weight": "backbone.embeddings.weight",
            "backbone.layers.{}.norm.weight": "backbone.layers.{}.norm.weight",
            "backbone.layers.{}.mixer.A_log": "backbone.layers.{}.mixer.A_log",
            "backbone.layers.{}.mixer.D": "backbone.layers.{}.mixer.D",
            "backbone.layers.{}.mixer.in_proj.weight": "backbone.layers.{}.mixer.in_proj.weight",
            "backbone.layers.{}.mixer.conv1d.weight": "backbone.layers.{}.mixer.conv1d.weight",
            "backbone.layers.{}.mixer.conv1d.bias": "backbone.layers.{}.mixer.conv1d.bias",
            "backbone.layers.{}.mixer.x_proj.weight": "backbone.layers.{}.mixer.x_proj.weight",
            "backbone.layers.{}.mixer.dt_proj.weight": "backbone.layers.{}.mixer.dt_proj.weight",
            "backbone.layers.{}.mixer.dt_proj.bias": "backbone.layers.{}.mixer.dt_proj.bias",
            "backbone.layers.{}.mixer.out_proj.weight": "backbone.layers.{}.mixer.out_proj.weight",
            "backbone.norm_f.weight": "backbone.norm_f.weight",
            "lm_head.weight": "lm_head.weight",
        }
    ),
    aliases=MappingProxyType({"backbone.embedding.weight": "backbone.embedding.weight"}),
)

# -------------------------------------------------------------------------------------------------
# Whether a checkpoint is the model that a configuration describes.
# -------------------------------------------------------------------------------------------------

_NOT_ARCHITECTURE = frozenset(
    {
        "chunk_size",
        "A_init_range",
        "dt_min",
        "dt_max",
        "dt_init",
        "dt_scale",
        "dt_init_floor",
        "initializer_range",
        "pad_vocab_size_multiple",
    }
)


def architecture_differences(config: MambaConfig, checkpoint: MambaConfig) -> list[str]:
    """Describe each field in which a checkpoint does not fit a config, as `field: config X, ...`.

    Initialization and chunk length do not count. A checkpoint whose vocab_size is the padded size
    of the config fits: some publish that number.
    """
    if config.layer != checkpoint.layer:
        return [f"layer: config {config.layer}, checkpoint {checkpoint.layer}"]
    differences = []
    for parameter in fields(config):
        ours, theirs = getattr(config, parameter.name), getattr(checkpoint, parameter.name)
        is_same = ours == theirs
        if parameter.name == "vocab_size":
            is_same = theirs in {ours, config.padded_vocab_size}
        elif parameter.name == "dt_rank":
            assert isinstance(config, Mamba1Config)
            assert isinstance(checkpoint, Mamba1Config)
            is_same = config.step_rank == checkpoint.step_rank
        if parameter.name not in _NOT_ARCHITECTURE and not is_same:
            differences.append(f"{parameter.name}: config {ours}, checkpoint {theirs}")
    rows, found = config.padded_vocab_size, checkpoint.padded_vocab_size
    if rows != found and not any(text.startswith("vocab_size") for text in differences):
        differences.append(f"rows of the embedding: config {rows}, checkpoint {found}")
    return differences
