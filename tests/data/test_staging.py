"""Staging raw shards: found again, staged again, refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.corpora.table import ColumnCorpus
from biomamba.data.document import Reject
from biomamba.data.prepare.staging import (
    KINDS,
    StagedRecord,
    StagedShard,
    Stager,
    StageRules,
    StageTask,
    refuse_other_staging,
)
from biomamba.data.rows import LocalRows, LocalShard
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import ConfigError, DataError

SHARDS = [["alpha", "beta", "gamma"], ["delta"]]
Content = Callable[[Path], dict[str, bytes]]
Make = Callable[..., StageRules]


@pytest.fixture
def make_rules(
    tmp_path: Path, make_corpus: Callable[..., Any], byte_tokenizer: Tokenizer
) -> Callable[..., StageRules]:
    """Return make(shards=SHARDS, **changes)."""

    def _make(shards: Any = SHARDS, **changes: Any) -> StageRules:
        corpus = make_corpus(shards)
        rules = StageRules(tmp_path / "staging", corpus, byte_tokenizer, Cleaning(), 0.5)
        return replace(rules, **changes)

    return _make


def stage(rules: StageRules, number: int = 0, *, needs_tokens: bool = True) -> int:
    """Stage one shard and return the rows that were read for it."""
    shard = rules.corpus.shards()[number]
    return sum(Stager({"a": rules})(StageTask("a", number, shard, needs_tokens)))


def test_a_shard_is_staged_once(make_rules: Make, content_of: Content) -> None:
    rules = make_rules()
    assert stage(rules) == 3
    before = content_of(rules.folder)
    assert stage(rules) == 0
    assert content_of(rules.folder) == before


def test_the_record_says_what_was_staged(make_rules: Make) -> None:
    rows = ["a", Reject("short", None), Reject("broken", "row 3", is_damaged=True), "b"]
    rules = make_rules([rows])
    stage(rules)
    record = StagedRecord.read(rules.folder / "00000.json")
    assert (record.raw_name, record.num_documents, record.num_rows) == ("raw-0", 2, 4)
    assert (record.rejects, record.num_damaged) == ({"broken": 1, "short": 1}, 1)
    assert record.settings == rules.settings()


@pytest.mark.parametrize("kind", [*KINDS, "json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_staging_is_staged_anew(
    kind: str,
    damage: str,
    make_rules: Make,
    content_of: Content,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rules = make_rules()
    stage(rules)
    before = content_of(rules.folder)
    path = rules.folder / f"00000.{kind}"
    content = path.read_bytes() or b"no byte to lose"
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    assert stage(rules) == 3
    assert content_of(rules.folder) == before
    # A record or the tokens that are gone are the work of a crash or of a finished store.
    is_told = damage != "remove" or kind not in ("json", "bin")
    assert ("staging it again" in caplog.text) == is_told


def test_tokens_are_staged_anew_only_where_they_are_needed(make_rules: Make) -> None:
    rules = make_rules()
    stage(rules)
    StagedShard(rules.folder, 0).remove_tokens()
    assert stage(rules, needs_tokens=False) == 0
    assert stage(rules, needs_tokens=True) == 3


@pytest.mark.parametrize("is_rebuild", [False, True])
def test_other_settings_are_refused_or_staged_anew(is_rebuild: bool, make_rules: Make) -> None:
    stage(make_rules())
    other = make_rules(cleaning=Cleaning(exact_duplicates=False), is_rebuild=is_rebuild)
    if is_rebuild:
        assert stage(other) == 3
    else:
        with pytest.raises(
            DataError, match=r"cleaning.exact_duplicates is True, asked for False.*overwrite=true"
        ):
            stage(other)


@pytest.mark.parametrize("is_rebuild", [False, True])
def test_other_raw_content_is_refused_or_staged_anew(is_rebuild: bool, make_rules: Make) -> None:
    stage(make_rules())
    other = make_rules([["changed"]], is_rebuild=is_rebuild)
    if is_rebuild:
        assert stage(other) == 1
    else:
        with pytest.raises(DataError, match=r"00000.json was made from .*overwrite=true"):
            stage(other)


def test_differences_are_found_without_reading_raw_data(
    make_rules: Make, make_corpus: Callable[..., Any], byte_tokenizer: Tokenizer
) -> None:
    rules = make_rules()
    stage(rules, 1)
    shards = rules.corpus.shards()
    refuse_other_staging(rules, shards, rules.settings())
    other = {**rules.settings(), "tokenizer": "other"}
    with pytest.raises(DataError, match="tokenizer is"):
        refuse_other_staging(rules, shards, other)
    with pytest.raises(DataError, match="no such raw shard"):
        refuse_other_staging(rules, shards[:1], rules.settings())
    with pytest.raises(DataError, match="made from raw-1, now asked for: raw-0"):
        refuse_other_staging(rules, shards[::-1], rules.settings())


def test_a_raw_file_that_changes_while_it_is_read_is_refused(
    make_rules: Make, tmp_path: Path
) -> None:
    path = tmp_path / "raw.txt"
    path.write_text("alpha\nbeta\n")

    class Grows:
        name = path.name

        def rows(self) -> Iterator[dict[str, str]]:
            yield from LocalShard(path).rows()
            path.write_text("alpha\nbeta\ngamma\n")

        def fingerprint(self) -> str:
            return LocalShard(path).fingerprint()

    corpus = ColumnCorpus(LocalRows([str(path)]), "web", "none", ["text"])
    rules = replace(make_rules(), corpus=corpus)
    with pytest.raises(DataError, match=r"raw shard raw\.txt of a has changed while it was read"):
        list(Stager({"a": rules})(StageTask("a", 0, Grows(), needs_tokens=True)))
    assert not list(rules.folder.glob("0*"))


@pytest.mark.parametrize(("num_damaged", "is_refused"), [(2, False), (3, True)])
def test_too_many_damaged_rows_are_refused_with_examples(
    num_damaged: int, is_refused: bool, make_rules: Make
) -> None:
    damaged = [Reject("row is not JSON", f"row {i}", is_damaged=True) for i in range(num_damaged)]
    rules = make_rules([[*damaged, *"ab"[: 4 - num_damaged]]])
    if is_refused:
        with pytest.raises(DataError, match=r"3 of 4 rows of raw shard raw-0.*not JSON at row 0"):
            stage(rules)
        assert not list(rules.folder.iterdir())
    else:
        assert stage(rules) == 4


def test_a_folder_that_cannot_be_written_is_told(make_rules: Make) -> None:
    rules = make_rules()
    rules.folder.write_text("a file in the way")
    with pytest.raises(DataError, match=r"cannot stage raw shard raw-0 of a in .*staging"):
        stage(rules)


def test_impossible_tolerance_is_refused(make_rules: Make) -> None:
    with pytest.raises(ConfigError, match=r"max_bad_fraction must be .*, found 2"):
        make_rules(max_bad_fraction=2)


def test_a_shard_without_rows_is_told(make_rules: Make, caplog: pytest.LogCaptureFixture) -> None:
    rules = make_rules([[], ["alpha"], [Reject("short", None)]])
    assert [stage(rules, number) for number in range(3)] == [0, 1, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "raw shard raw-0 of a has no rows"
    ]
