"""Mamba2 as the authors publish it: state-spaces/mamba2-130m and its larger ones.

Source: state-spaces/mamba@bd011a1:mamba_ssm/models/config_mamba.py (top level, with its defaults)
and state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba2.py (ssm_cfg = arguments of the mixer). The
keys norm_epsilon and initializer_cfg are arguments of its MambaLMHeadModel, not of its config.
"""

import math
from types import MappingProxyType

from biomamba.model.config import Mamba2Config
from biomamba.model.formats.layout import Layout

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
