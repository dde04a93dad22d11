r"""Write a model in the layout of another library, or make one of a training checkpoint.

    python -m biomamba.export checkpoint=runs/cpt/first format=transformers output=exported
    python -m biomamba.export checkpoint=state-spaces/mamba2-130m format=transformers \
        tokenizer_file=EleutherAI/gpt-neox-20b dtype=bfloat16 output=mamba2-130m-hf

The folder is complete or not there; export.json in it says where the weights come from, and for
transformers README.md is a model card of what the records of the runs and evaluations say.
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    signals.start_program()

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from biomamba.config.cli import run_cli
from biomamba.config.messages import check_all
from biomamba.config.run_settings import plain_parts
from biomamba.data.tokenizer import Tokenizer
from biomamba.reporting.model_card import (
    README,
    CardFacts,
    CardTerms,
    check_results,
    model_card,
    read_results,
)
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.provenance import provenance
from biomamba.training.export import (
    ExportFormat,
    ExportSource,
    check_checkpoint,
    check_output,
    checked_choice,
    export,
    find_source,
)
from biomamba.training.lineage import Lineage, find_lineage, keep_private


def main(cfg: DictConfig) -> None:
    """Find the weights and the tokenizer, write them, and tell what was written."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    output = Path(cfg.output).absolute()
    check_all("the configuration", checks_of(config, output))
    form = format_of(config)
    lineage = find_lineage(cfg.checkpoint)
    keep_private(plain_parts(cfg))
    held_back = reasons_to_hold_back(lineage)
    if held_back and not cfg.card.allow_restricted:
        raise ConfigError(
            f"{cfg.checkpoint} is not written: {'; '.join(held_back)}. If you may hold these "
            "weights where output is, add card.allow_restricted=true"
        )
    source = find_source(cfg.checkpoint, cfg.weights)
    tokenizer = find_tokenizer(cfg.tokenizer_file, source)
    origin = provenance(config) | {"restricted": held_back} | lineage.filter_record()
    texts = write_card(config["card"], source, form, lineage, output, tokenizer)
    record = export(source, form, output, tokenizer, origin, texts)
    print(f"exported: {source.origin['path']} as {form.name} ({form.dtype})")
    for name in record["files"]:
        print(f"  {output / name}  {(output / name).stat().st_size:,} bytes")
    if record["rounded"]:
        largest = max(record["rounded"].values())
        print(f"rounded: {len(record['rounded'])} tensors, by up to {largest:.1e} of a number")
    if not (output / "tokenizer.json").is_file():
        print("no tokenizer is beside the weights: add tokenizer_file=<tokenizer.json or hub id>")


def checks_of(config: dict[str, Any], output: Path) -> Iterator[Callable[[], object]]:
    """Yield what finds a wrong value, folder or file before any weights are read."""
    yield partial(format_of, config)
    yield partial(check_output, output, overwrite=config["overwrite"])
    yield partial(checked_choice, config["weights"])
    yield partial(check_checkpoint, config["checkpoint"])
    if config["tokenizer_file"] is not None:
        yield partial(Tokenizer.load, config["tokenizer_file"])
    yield partial(terms_of, config["card"], config["format"])
    for folder in config["card"]["results"]:
        yield partial(check_results, Path(folder))


def format_of(config: dict[str, Any]) -> ExportFormat:
    """Return how the folder is written.

    Raises:
        ConfigError: A value is not allowed.
    """
    return ExportFormat(
        name=config["format"],
        dtype=config["dtype"],
        container=config["container"],
        max_shard_bytes=config["max_shard_bytes"],
    )


def terms_of(keys: dict[str, Any], format_name: str) -> CardTerms:
    """Return what the card states.

    Raises:
        ConfigError: A key has no meaning for the format, or a value is not of its form.
    """
    if format_name != "transformers" and (keys["results"] or keys["license"] or keys["language"]):
        raise ConfigError(
            f"card: format={format_name} has no model card; leave card.license, card.language "
            "and card.results out, or write format=transformers"
        )
    return CardTerms(license=keys["license"], language=keys["language"])


def reasons_to_hold_back(lineage: Lineage) -> list[str]:
    """Say why the weights may not be shared, or why that is not known."""
    unknown = [f"{what}: whether it may be shared is not known" for what in lineage.unknown()]
    return [*lineage.restrictions(), *unknown]


def write_card(
    keys: dict[str, Any],
    source: ExportSource,
    form: ExportFormat,
    lineage: Lineage,
    output: Path,
    tokenizer: Tokenizer | None,
) -> dict[str, str]:
    """Return the model card by the name of its file; other formats than transformers have none.

    Raises:
        ConfigError: A key has no meaning for the format, or a value is not of its form.
        DataError: An evaluation is missing, or of other weights.
    """
    terms = terms_of(keys, form.name)
    if form.name != "transformers":
        return {}
    results = [read_results(Path(folder), source.origin["sha256"]) for folder in keys["results"]]
    for found in results:
        if found.left_out:
            print(f"card: {found.name}: left out, not these weights: {', '.join(found.left_out)}")
    beside = source.stored is not None and (source.stored.folder / "tokenizer.json").is_file()
    facts = CardFacts(
        name=output.name,
        config=source.config,
        origin=source.origin,
        dtype=form.dtype,
        lineage=lineage,
        results=results,
        terms=terms,
        has_tokenizer=tokenizer is not None or beside,
    )
    return {README: model_card(facts)}


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
