"""Mamba-1 as the authors publish it: state-spaces/mamba-130m and its larger ones.

Source: state-spaces/mamba@bd011a1:mamba_ssm/models/config_mamba.py (top level, with its defaults)
and state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba_simple.py (ssm_cfg = arguments of the mixer).
The published files have an empty ssm_cfg and neither tie_embeddings nor the keys of attention.
"""

from types import MappingProxyType

from biomamba.model.config import Mamba1Config
from biomamba.model.formats.layout import Layout

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
