"""The settings and figures by which runs are compared."""

from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.training.callbacks.tensorboard import compared_metrics, hyper_parameters


def test_settings_of_a_run() -> None:
    model = MambaLM(
        Mamba2Config(d_model=8, n_layer=1, vocab_size=16, d_state=4, headdim=4), ReferenceScan()
    )
    for parameter in model.backbone.embedding.parameters():
        parameter.requires_grad_(requires_grad=False)
    config = {
        "model": {"checkpoint": "runs/a/model"},
        "optimizer": {"lr": 0.001, "betas": [0.9, 0.95]},
        "trainer": {"precision": "32-true"},
        "schedule": {"warmup_ratio": 0.1},
        "max_tokens": None,  # epochs decide
        "seed": 7,
        "tokens_per_step": 64,
        "data": {"budget": {"seq_len": 32}},
    }
    found = hyper_parameters(config, model, {"pubmed": 0.8, "web": 0.2})
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found == {
        "model": "runs/a/model",
        "layers": 1,
        "d_model": 8,
        "trained_parameters": trained,
        "lr": 0.001,
        "warmup_ratio": 0.1,
        "tokens_per_step": 64,
        "seq_len": 32,
        "precision": "32-true",
        "seed": 7,
        "mixture/pubmed": 0.8,
        "mixture/web": 0.2,
    }


def test_results_of_a_run() -> None:
    assert compared_metrics(["web"]) == [
        "val/loss",
        "val/web/perplexity",
        "val/web/bits_per_byte",
        "throughput/mean_tokens_per_second",
        "data/tokens",
    ]
