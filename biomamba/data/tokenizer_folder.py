"""The one tokenizer that all stores of a set share, kept beside them.

<set>/tokenizer.json           the tokenizer
<set>/tokenizer.record.json    how it was made, its fingerprint and the hash of the file, sealed
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from biomamba.data.sealed import read_sealed, sha256_of, write_sealed
from biomamba.data.tokenizer import Tokenizer
from biomamba.data.tokenizer_source import TokenizerSource
from biomamba.runtime.errors import DataError

_FILE_NAME = "tokenizer.json"
_RECORD_NAME = "tokenizer.record.json"
TOKENIZER_FILES = (_FILE_NAME, _RECORD_NAME)


def obtain_tokenizer(
    folder: Path,
    source: TokenizerSource,
    texts: Callable[[], Iterable[str]],
    trained_on: Callable[[], dict[str, Any]],
    *,
    overwrite: bool,
) -> Tokenizer:
    """Load the tokenizer of a set, or make and save it.

    A trained tokenizer is kept when corpora are added later; its record says what it saw.

    Args:
        folder: The set.
        source: How to make it.
        texts: Gives the training texts.
        trained_on: Gives the identity of those texts, for the record of a trained tokenizer.
        overwrite: Make it anew even if the set has one.

    Raises:
        DataError: If the set has a tokenizer of another kind, or a damaged one.
    """
    if (folder / _RECORD_NAME).is_file() and not overwrite:
        return _kept(folder, source)
    tokenizer = source.build(texts())
    tokenizer.save(folder / _FILE_NAME)
    record = {
        "settings": source.settings(),
        "fingerprint": tokenizer.fingerprint,
        "file_sha256": sha256_of(folder / _FILE_NAME),
        "trained_on": trained_on() if source.needs_texts else {},
    }
    write_sealed(folder / _RECORD_NAME, record)
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a set of stores.

    Raises:
        DataError: If it is missing or damaged.
    """
    path = folder / _FILE_NAME
    record = read_sealed(folder / _RECORD_NAME)
    if not path.is_file():
        raise DataError(f"{path} is missing; prepare the set again")
    if sha256_of(path) != record["file_sha256"]:
        raise DataError(f"{path} is damaged: it does not match {_RECORD_NAME}")
    return Tokenizer.load(str(path))


def _kept(folder: Path, source: TokenizerSource) -> Tokenizer:
    stored = read_sealed(folder / _RECORD_NAME)
    tokenizer = load_tokenizer(folder)
    asked = source.settings()
    is_same = stored["settings"] == asked
    if is_same and asked["kind"] == "pretrained":
        is_same = source.build(()).fingerprint == tokenizer.fingerprint
    if not is_same:
        raise DataError(
            f"the set {folder} has a tokenizer made with {stored['settings']} (fingerprint "
            f"{tokenizer.fingerprint[:12]}), asked for {asked}; choose another name, or set "
            "overwrite=true to rebuild the set"
        )
    return tokenizer
