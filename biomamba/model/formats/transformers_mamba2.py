"""Mamba2 as transformers has it: model_type mamba2, class Mamba2ForCausalLM.

Source: huggingface/transformers@v5.0.0:src/transformers/models/mamba2/configuration_mamba2.py (keys
and defaults) and modeling_mamba2.py (names of tensors). What its config has no key for stands in an
object `biomamba`, which transformers keeps and ignores: the vocabulary before padding, above all.
"""

import math
from types import MappingProxyType

from biomamba.model.config import Mamba2Config
from biomamba.model.formats.layout import Layout

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
