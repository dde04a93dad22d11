r"""Write a model in the layout of another library, or make one of a training checkpoint.

    python -m biomamba.export checkpoint=runs/cpt/first format=transformers output=exported
    python -m biomamba.export checkpoint=state-spaces/mamba2-130m format=transformers \
        tokenizer_file=EleutherAI/gpt-neox-20b dtype=bfloat16 output=mamba2-130m-hf

The folder is complete or not there; export.json in it says where the weights come from.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from biomamba.config.cli import run_cli
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import DataError
from biomamba.runtime.provenance import provenance
from biomamba.training.export_folder import ExportFormat, check_output, export
from biomamba.training.export_source import ExportSource, find_source


def main(cfg: DictConfig) -> None:
    """Find the weights and the tokenizer, write them, and tell what was written."""
    form = ExportFormat(
        name=cfg.format,
        dtype=cfg.dtype,
        container=cfg.container,
        max_shard_bytes=cfg.max_shard_bytes,
    )
    output = Path(cfg.output).absolute()
    check_output(output, overwrite=cfg.overwrite)
    source = find_source(cfg.checkpoint, cfg.weights)
    tokenizer = find_tokenizer(cfg.tokenizer_file, source)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    record = export(source, form, output, tokenizer, provenance(config))
    print(f"exported: {source.origin['path']} as {form.name} ({form.dtype})")
    for name in record["files"]:
        print(f"  {output / name}  {(output / name).stat().st_size:,} bytes")
    if record["rounded"]:
        largest = max(record["rounded"].values())
        print(f"rounded: {len(record['rounded'])} tensors, by up to {largest:.1e} of a number")
    if not (output / "tokenizer.json").is_file():
        print("no tokenizer lies beside the weights: add tokenizer_file=<tokenizer.json or hub id>")


def find_tokenizer(named: str | None, source: ExportSource) -> Tokenizer | None:
    """Return the named tokenizer, or the one beside the weights if it is one of ours.

    Raises:
        DataError: The named one cannot be read.
    """
    if named is not None:
        return Tokenizer.load(named)
    beside = source.tokenizer_folder / "tokenizer.json"
    if not beside.is_file():
        return None
    try:
        tokenizer = Tokenizer.load(str(beside))
    except DataError:  # it has no <|endoftext|>; its files are copied as they are
        return None
    eos = source.stored.raw.get("eos_token_id") if source.stored else None
    return tokenizer if eos in {None, tokenizer.eod_id} else None


if __name__ == "__main__":
    run_cli("export", main)
