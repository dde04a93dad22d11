"""Tokenizers and token stores below the data folder."""

from collections.abc import Iterator
from pathlib import Path

from biomamba.data.manifest import MANIFEST_NAME, Manifest, file_problems
from biomamba.data.tokenizer_folder import load_tokenizer
from biomamba.diagnosis.finding import Finding, ok, problem, warning
from biomamba.runtime.errors import DataError

_PREPARE = "python -m biomamba.prepare +experiment=... writes them"
_MAX_SETS = 20


def check_stores(data_dir: Path) -> Iterator[Finding]:
    """Look at every set of stores: tokenizer, manifests, sizes of files; nothing is hashed."""
    sets = sorted({path.parent.parent for path in data_dir.glob(f"*/*/{MANIFEST_NAME}")})
    if not sets:
        yield warning("token stores", f"none below {data_dir.absolute()}", _PREPARE)
    for folder in sets[:_MAX_SETS]:
        yield from check_set(folder)
    if len(sets) > _MAX_SETS:
        yield ok("token stores", f"{len(sets) - _MAX_SETS} more sets were not looked at")


def check_set(folder: Path) -> Iterator[Finding]:
    """Check one set: all of its stores must be whole and of its tokenizer."""
    topic = f"set {folder.name}"
    try:
        tokenizer = load_tokenizer(folder)
    except DataError as error:
        yield problem(topic, str(error), "prepare the set again with overwrite=true")
        return
    faults, names, tokens = [], [], 0
    for path in sorted(folder.glob(f"*/{MANIFEST_NAME}")):
        try:
            manifest = Manifest.read(path.parent)
        except DataError as error:
            faults.append(str(error))
            continue
        names.append(path.parent.name)
        tokens += sum(total.tokens for total in manifest.totals.values())
        if manifest.tokenizer != tokenizer.fingerprint:
            faults.append(f"{path.parent} was made with another tokenizer")
        files = dict(manifest.files)
        faults += file_problems(path.parent, files, is_full=False, report=lambda _: None)
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        remedy = f"python -m biomamba.verify name={folder.name} names all of it"
        yield problem(topic, f"{faults[0]}{more}", remedy)
    else:
        yield ok(
            topic,
            f"{', '.join(names)}: {tokens:,} tokens, tokenizer of {tokenizer.vocab_size:,} ids; "
            "sizes of all files are right (biomamba.verify compares the bytes)",
        )
