"""Opening stores that belong together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from biomamba.data.store.format import FileRecord, Manifest
from biomamba.data.store.reader import content_fingerprint, open_stores, verify_stores
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import ConfigError, DataError


def test_stores_are_opened_in_the_order_given(write_store: Callable[..., Path]) -> None:
    folders = [str(write_store(name, ["text"])) for name in ("b", "a")]
    assert [store.manifest.corpus for store in open_stores(folders)] == ["b", "a"]


def test_stores_of_another_tokenizer_are_refused(
    tmp_path: Path,
    write_store: Callable[..., Path],
    write_corpus: Callable[..., Manifest],
    make_corpus: Callable[..., object],
) -> None:
    first, second = write_store("a", ["text"]), tmp_path / "other"
    tokenizer = Tokenizer.train_bpe(["text text"], 258)
    write_corpus(second, make_corpus([["text"]]), tokenizer, StorePolicy(0, 0))
    with pytest.raises(DataError, match="differ in tokenizer"):
        open_stores([str(first), str(second)])


def test_stores_of_another_split_rule_are_refused(write_store: Callable[..., Path]) -> None:
    first = write_store("a", ["text"])
    second = write_store("b", ["text"], policy=StorePolicy(1, 0))
    with pytest.raises(DataError, match="differ in split"):
        open_stores([str(first), str(second)])


@pytest.mark.parametrize(("folders", "match"), [([], "no token stores"), (["a", "a"], "once: a")])
def test_impossible_pools_are_refused(folders: list[str], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        open_stores(folders)


def test_the_fingerprint_follows_the_content(write_store: Callable[..., Path]) -> None:
    names = ["a", "b", "c"]
    folders = [str(write_store(name, [text])) for name, text in zip(names, "xxy", strict=True)]
    first, _, third = (store.fingerprint for store in open_stores(folders))
    again = open_stores(folders[:1])[0].fingerprint
    assert first == again != third


def test_the_fingerprint_is_that_of_the_content_alone(write_store: Callable[..., Path]) -> None:
    folder = write_store("a", ["text"])
    before = open_stores([str(folder)])[0].fingerprint
    manifest = Manifest.read(folder)
    files = manifest.files | {"00000.json": FileRecord(1, "of a record in other words")}
    later = replace(manifest, code={"version": "99"}, licence="other", files=files)
    later.write(folder)
    assert open_stores([str(folder)])[0].fingerprint == before
    told = manifest.files | {"00000.train.facts": FileRecord(1, "of what is told about it")}
    replace(manifest, files=told).write(folder)
    assert open_stores([str(folder)])[0].fingerprint == before
    changed = manifest.files | {"00000.train.bin": FileRecord(10, "other tokens")}
    replace(manifest, files=changed).write(folder)
    assert open_stores([str(folder)])[0].fingerprint != before


def test_verification_covers_every_store(write_store: Callable[..., Path]) -> None:
    stores = open_stores([str(write_store(name, ["text"])) for name in ("a", "b")])
    verify_stores(stores, "full")
    (stores[1].folder / "00000.train.bin").unlink()
    with pytest.raises(DataError, match=r"b is damaged: 00000\.train\.bin is missing"):
        verify_stores(stores, "full")


def test_content_fingerprints_do_not_depend_on_the_order_of_keys() -> None:
    assert content_fingerprint({"a": 1, "b": 2}) == content_fingerprint({"b": 2, "a": 1})
