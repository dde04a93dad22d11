"""How the rows of a source are dealt out to the readers."""

from collections.abc import Callable
from typing import Any

import pytest

from biomamba.data.document import Reject
from biomamba.data.streaming.source import StreamedSource
from biomamba.runtime.errors import DataError

Make = Callable[..., Any]


def open_source(corpus: Any) -> StreamedSource:
    return StreamedSource.open("s", 0, ["c"], {"c": corpus})


def texts_of(source: StreamedSource, reader: int, num_readers: int) -> list[str]:
    part = source.part(reader, num_readers)
    return [
        document.text
        for shard in range(len(part.shards))
        for _, document in part.documents(shard, 0, 1.0)
    ]


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("num_readers", [1, 2, 4, 5])
def test_every_row_belongs_to_one_reader(
    num_shards: int, num_readers: int, make_corpus: Make
) -> None:
    shards = [[f"{shard} {row}" for row in range(5 + shard)] for shard in range(num_shards)]
    source = open_source(make_corpus(shards))
    read = [text for reader in range(num_readers) for text in texts_of(source, reader, num_readers)]
    assert sorted(read) == sorted(text for shard in shards for text in shard)


def test_readers_of_enough_shards_have_whole_shards(make_corpus: Make) -> None:
    source = open_source(make_corpus([[f"{shard} {row}" for row in "ab"] for shard in range(5)]))
    assert texts_of(source, 1, 2) == ["1 a", "1 b", "3 a", "3 b"]


def test_readers_of_one_shard_take_turns(make_corpus: Make) -> None:
    source = open_source(make_corpus([[str(row) for row in range(7)]]))
    assert [texts_of(source, reader, 3) for reader in range(3)] == [
        ["0", "3", "6"],
        ["1", "4"],
        ["2", "5"],
    ]


def test_a_part_goes_on_at_a_row(make_corpus: Make) -> None:
    part = open_source(make_corpus([[str(row) for row in range(9)]])).part(1, 2)
    assert [(row, d.text) for row, d in part.documents(0, 4, 1.0)] == [(5, "5"), (7, "7")]


def test_several_corpora_are_pooled_in_order(make_corpus: Make) -> None:
    corpora = {"a": make_corpus([["a"]]), "b": make_corpus([["b"], ["c"]])}
    source = StreamedSource.open("s", 0, ["b", "a"], corpora)
    assert texts_of(source, 0, 1) == ["b", "c", "a"]


def test_a_source_without_shards_is_refused(make_corpus: Make) -> None:
    with pytest.raises(DataError, match="source 's' has no raw shards"):
        open_source(make_corpus([]))


def test_too_many_damaged_rows_end_the_run(make_corpus: Make) -> None:
    bad = Reject("row is not JSON", "f:1", is_damaged=True)
    left_out = Reject("too short", None)
    source = open_source(make_corpus([["text"] * 1_500 + [left_out] * 9 + [bad, bad] + ["text"]]))
    shard = source.shards[0]
    assert len(list(shard.documents(0.002))) == 1_501
    with pytest.raises(DataError, match=r"2 of the first 1511 rows of raw-0 are damaged .*f:1"):
        list(shard.documents(0.001))


def test_one_damaged_row_of_few_is_borne(make_corpus: Make) -> None:
    bad = Reject("row is not JSON", None, is_damaged=True)
    shard = open_source(make_corpus([[bad, "a", "b"]])).shards[0]
    assert len(list(shard.documents(0.001))) == 2
