"""Turn raw corpora into checked token stores; a rerun continues where the last one stopped.

    python -m biomamba.prepare
    python -m biomamba.prepare corpus=[local_pubmed,local_c4] tokenizer=bpe_8k name=local \
        paths.raw_dir=/path/to/raw

Writes `<paths.data_dir>/<name>/<corpus>/` and the tokenizer of the set beside them.
"""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from biomamba.config.build import build
from biomamba.config.cli import run_cli
from biomamba.data.preparation import prepare, summary


def main(cfg: DictConfig) -> None:
    """Build the corpora and the tokenizer source, write the stores, print what they hold."""
    manifests = prepare(
        Path(cfg.paths.data_dir) / cfg.name,
        {name: build(node) for name, node in cfg.corpora.items()},
        build(cfg.tokenizer),
        build(cfg.split),
        overwrite=cfg.overwrite,
    )
    Console().print(summary(manifests))


if __name__ == "__main__":
    run_cli("prepare", main)
