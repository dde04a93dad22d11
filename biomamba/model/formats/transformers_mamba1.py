"""Mamba-1 as transformers has it: model_type mamba, class MambaForCausalLM.

Source: huggingface/transformers@v5.0.0:src/transformers/models/mamba/configuration_mamba.py (keys
and defaults) and modeling_mamba.py (names of tensors). What its config has no key for stands in an
object `biomamba`, which transformers keeps and ignores: the vocabulary before padding, above all.
"""

import math
from types import MappingProxyType

from biomamba.model.config import Mamba1Config
from biomamba.model.formats.layout import Layout
from biomamba.model.formats.transformers_mamba2 import NOT_THE_MODEL

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
