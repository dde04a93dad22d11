"""Local files of every kind, whole and damaged."""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomamba.data import rows as rows_module
from biomamba.data.document import Reject
from biomamba.data.rows import LocalRows, Row, read_json_file, with_columns
from biomamba.runtime.errors import ConfigError, DataError

ROWS: list[Row] = [{"id": "1", "text": "caf\u00e9\nline"}, {"id": "2", "text": "b, c"}]


def write_jsonl(path: Path) -> None:
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_csv(path: Path) -> None:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "text"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path, write_page_checksum=True)


KINDS = {
    "a.jsonl": write_jsonl,
    "a.jsonl.gz": write_jsonl,
    "a.json.gz": write_jsonl,
    "a.csv": write_csv,
    "a.csv.gz": write_csv,
    "a.parquet": write_parquet,
}


def read(path: Path) -> list[Row | Reject]:
    (shard,) = LocalRows([str(path)]).shards()
    return list(shard.rows())


@pytest.mark.parametrize(("name", "write"), KINDS.items())
def test_every_kind_gives_the_same_rows(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / name)
    assert read(tmp_path / name) == ROWS


def test_a_text_file_gives_a_row_per_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\xff\ntwo")
    first, damaged, last = read(tmp_path / "a.txt")
    assert (first, last) == ({"text": "one\n"}, {"text": "two"})
    assert damaged == Reject("row is not UTF-8", "a.txt:2", is_damaged=True)


def test_a_text_file_may_be_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    rows = LocalRows([str(tmp_path / "a.txt")], whole_text_files=True)
    assert list(rows.shards()[0].rows()) == [{"text": "one\n\ntwo\n"}]
    assert rows.settings() != LocalRows(["a.txt"]).settings()


def test_the_mark_of_a_spreadsheet_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfid,text\n1,b\n")
    assert read(tmp_path / "a.csv") == [{"id": "1", "text": "b"}]


def test_a_file_is_compared_with_its_checksum_before_it_is_read(tmp_path: Path) -> None:
    path, sums = tmp_path / "a.txt", tmp_path / "SHA256SUMS"
    path.write_bytes(b"abc")
    sums.write_text(f"{sha256(b'abc').hexdigest()}  a.txt\n")
    (shard,) = LocalRows([str(path)], checksums=str(sums)).shards()
    assert shard.fingerprint() == f"sha256:{sha256(b'abc').hexdigest()}"
    path.write_bytes(b"abd")
    with pytest.raises(DataError, match=r"a\.txt is not the file that .*SHA256SUMS lists"):
        shard.fingerprint()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "row is not JSON"),
        (b'{"text": "\xff"}', "row is not UTF-8"),
        (b'{"text": "\\ud83d"}', "row holds half of a surrogate pair, which is no character"),
        (
            b'{"a": [{"b": "\\uDC00x"}]}',
            "row holds half of a surrogate pair, which is no character",
        ),
        (b'{"text": "a", "text": "b"}', "row has a key twice: 'text'"),
        (b'{"Mrs. Doe, 54": "a", "Mrs. Doe, 54": "b"}', "row has a key twice"),
        (b"[1]", "row is not an object"),
        (b"[" * 100_000, "row is not JSON"),
    ],
)
def test_an_undecodable_row_is_handed_on_as_damaged(
    line: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}\n\n' + line + b'\n{"text": "y"}\n')
    assert read(tmp_path / "a.jsonl") == [
        {"text": "x"},
        Reject(reason, "a.jsonl:3", is_damaged=True),
        {"text": "y"},
    ]


def test_a_csv_row_with_a_field_too_few_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1\n2,b\n")
    assert read(tmp_path / "a.csv") == [
        Reject("row has the wrong number of fields", "a.csv:2", is_damaged=True),
        {"id": "2", "text": "b"},
    ]


@pytest.mark.parametrize("name", [name for name in KINDS if name.endswith((".gz", ".parquet"))])
def test_a_cut_file_stops_and_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    KINDS[name](path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=name):
        read(path)


def test_a_gz_name_on_a_plain_file_stops_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_text('{"text": "x"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl\.gz"):
        read(tmp_path / "a.jsonl.gz")


def test_a_flipped_bit_in_a_checked_parquet_page_stops(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["abcdefgh" * 50]})
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, write_page_checksum=True, **options)
    content = bytearray(path.read_bytes())
    content[content.index(b"abcdefghabcdefgh") + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet"):
        read(path)


def test_no_flipped_bit_of_a_parquet_footer_passes_as_other_rows(tmp_path: Path) -> None:
    """The footer has no checksum of its own; a third of its bits is tried."""
    path = tmp_path / "a.parquet"
    write_parquet(path)
    whole = path.read_bytes()
    num_bytes = int.from_bytes(whole[-8:-4], "little") + 8
    outcomes: Counter[str] = Counter()
    for place in range(8 * (len(whole) - num_bytes), 8 * len(whole), 3):
        bit = 1 << place % 8
        content = bytearray(whole)
        content[place // 8] ^= bit
        path.write_bytes(content)
        try:
            rows = read(path)
        except DataError as error:
            outcomes["named" if "a.parquet" in str(error) else "nameless"] += 1
            continue
        values = [value for row in rows if isinstance(row, dict) for value in row.values()]
        is_refused = any(
            isinstance(row, Reject) or row.keys() != {"id", "text"} for row in rows
        ) or not all(isinstance(value, str) for value in values)
        outcomes["same" if rows == ROWS else "refused later" if is_refused else "changed"] += 1

    assert set(outcomes) == {"named", "same", "refused later"}
    assert sum(outcomes.values()) == -(-8 * num_bytes // 3)


def test_a_pattern_stands_for_sorted_files(tmp_path: Path) -> None:
    for name in ("b-2.jsonl", "b-1.jsonl", "c.jsonl"):
        (tmp_path / name).write_text("")
    shards = LocalRows([str(tmp_path / "c.jsonl"), str(tmp_path / "b-*.jsonl")]).shards()
    assert [shard.name for shard in shards] == ["c.jsonl", "b-1.jsonl", "b-2.jsonl"]


def test_fingerprint_changes_with_one_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc")
    (shard,) = LocalRows([str(path)]).shards()
    before = shard.fingerprint()
    path.write_bytes(b"abd")
    assert shard.fingerprint() != before


@pytest.mark.parametrize(
    ("name", "match"),
    [("gone.jsonl", "does not exist"), ("x-*.jsonl", "no raw file matches"), ("a.doc", "kind")],
)
def test_an_unusable_file_is_named(name: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "a.doc").write_text("")
    with pytest.raises(DataError, match=match):
        LocalRows([str(tmp_path / name)]).shards()


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"share a name: a\.txt"):
        LocalRows([str(tmp_path / "one/a.txt"), str(tmp_path / "two/a.txt")]).shards()


def test_no_files_are_refused() -> None:
    with pytest.raises(ConfigError, match="files is empty"):
        LocalRows([])


TEXT = "\u03b1-blocker 5 mg ≥ 3\n"


@pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".csv"])
@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_a_file_of_another_unicode_encoding_is_refused_by_name(
    tmp_path: Path, suffix: str, encoding: str
) -> None:
    content = {
        ".jsonl": f'{{"text": "{TEXT.strip()}"}}\n' * 20,
        ".txt": TEXT * 20,
        ".csv": "id,text\n" + f"1,{TEXT}" * 20,
    }[suffix]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content.encode(encoding))

    with pytest.raises(DataError, match=r"must be UTF-8 text, found (UTF-16|UTF-32|binary)"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("a.jsonl", '{"text": "x"}\n', {"text": "x"}),
        ("a.txt", "x\n", {"text": "x\n"}),
        ("a.csv", "text\nx\n", {"text": "x"}),
    ],
)
def test_the_mark_of_utf8_is_no_part_of_the_text(
    tmp_path: Path, name: str, content: str, first: dict[str, str]
) -> None:
    (tmp_path / name).write_bytes(content.encode("utf-8-sig"))

    assert read(tmp_path / name) == [first]


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00"}\n')

    assert read(tmp_path / "a.jsonl") == [{"text": "\U0001f600"}]


def test_columns_of_the_same_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text,text\n1,a,b\n")
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")

    for name in ("a.csv", "a.parquet"):
        with pytest.raises(DataError, match=rf"{name} has columns of the same name: text"):
            read(tmp_path / name)


def test_only_the_columns_that_are_used_are_decoded(tmp_path: Path) -> None:
    """A date that Python cannot hold, in a column that nobody asked for, ends nothing."""
    path = tmp_path / "a.parquet"
    late = pa.array([2**62], type=pa.timestamp("us"))
    pq.write_table(pa.table({"text": ["x"], "other": ["y"], "at": late}), path)
    shard = LocalRows([str(path)]).shards()[0]

    (chosen,) = with_columns([shard], ["text", "absent"])
    assert list(chosen.rows()) == [{"text": "x"}]
    assert chosen.fingerprint() == shard.fingerprint()


def test_a_parquet_row_with_a_date_beyond_python_is_damaged(tmp_path: Path) -> None:
    late = pa.array([0, 2**62, 0], type=pa.timestamp("us"))
    pq.write_table(pa.table({"text": ["x", "y", "z"], "at": late}), tmp_path / "a.parquet")
    first, second, third = read(tmp_path / "a.parquet")

    assert first == {"text": "x", "at": datetime(1970, 1, 1)}
    assert third == {"text": "z", "at": datetime(1970, 1, 1)}
    reason = "column 'at' holds a value that Python cannot hold"
    assert second == Reject(reason, "a.parquet row 2", is_damaged=True)


@pytest.mark.parametrize("rows_per_group", [1, 2, 5])
def test_a_parquet_row_with_text_that_is_not_utf8_is_damaged(
    rows_per_group: int, tmp_path: Path
) -> None:
    texts = [b"a", b"b", b"\xffc", b"d", b"e"]
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    column = pa.Array.from_buffers(
        pa.string(), 5, [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
    )
    pq.write_table(
        pa.table({"id": range(5), "text": column}),
        tmp_path / "a.parquet",
        row_group_size=rows_per_group,
    )
    rows: list[Row | Reject] = [
        {"id": i, "text": text.decode("latin-1")} for i, text in enumerate(texts)
    ]
    rows[2] = Reject("column 'text' is not UTF-8", "a.parquet row 3", is_damaged=True)

    assert read(tmp_path / "a.parquet") == rows


def test_few_large_rows_of_parquet_are_decoded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[Row] = [{"text": chr(97 + i) * 1000} for i in range(20)]
    options = {"use_dictionary": False, "write_statistics": False, "row_group_size": 10}
    pq.write_table(pa.Table.from_pylist(expected), tmp_path / "a.parquet", **options)
    group_bytes = pq.read_metadata(tmp_path / "a.parquet").row_group(0).total_byte_size
    assert group_bytes > 10 * 1000
    sizes = []
    convert = rows_module._batch_rows

    def recorded(batch: Any, *place: Any) -> list[Row | Reject]:
        sizes.append(len(batch))
        return convert(batch, *place)

    monkeypatch.setattr(rows_module, "_batch_rows", recorded)
    for limit, wanted in [
        (group_bytes, [10, 10]),
        (group_bytes // 3, [3, 3, 3, 1] * 2),
        (10, [1] * 20),
    ]:
        monkeypatch.setattr(rows_module, "_BYTES_AT_ONCE", limit)
        sizes.clear()
        assert read(tmp_path / "a.parquet") == expected
        assert sizes == wanted


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_line_beyond_the_limit_is_damaged_and_the_next_one_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_MAX_ROW_BYTES", 20)
    lines = [{"text": "x" * size} for size in (8, 9, 60, 1)]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    assert [len(line) for line in content.splitlines(keepends=True)][:2] == [21, 22]
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    reason = "row has more than 20 bytes"

    assert read(tmp_path / name) == [
        *(Reject(reason, f"{name}:{number}", is_damaged=True) for number in (1, 2, 3)),
        {"text": "x"},
    ]
    monkeypatch.setattr(rows_module, "_MAX_ROW_BYTES", 21)
    assert [isinstance(row, Reject) for row in read(tmp_path / name)] == [False, True, True, False]


def test_other_files_have_the_same_limit_on_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_MAX_ROW_BYTES", 20)
    (tmp_path / "a.txt").write_text("short\n" * 4)
    (tmp_path / "a.csv").write_text("text\n" + "x" * 21 + "\n")
    whole = LocalRows([str(tmp_path / "a.txt")], whole_text_files=True).shards()[0]

    assert read(tmp_path / "a.txt") == [{"text": "short\n"}] * 4
    assert list(whole.rows()) == [Reject("row has more than 20 bytes", "a.txt:1", is_damaged=True)]
    limit = csv.field_size_limit()  # of the whole process
    try:
        with pytest.raises(DataError, match=r"a\.csv to its end \(Error: field larger"):
            read(tmp_path / "a.csv")
    finally:
        csv.field_size_limit(limit)


ZERO = "row holds a zero character, which is no text"
PAD = "x" * 5_000  # beyond what is looked at to see the encoding


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.txt", f"{PAD}\na\0b\nc\n", 2),
        ("a.jsonl", f'{{"text": "{PAD}"}}\n{{"text": "a\0b"}}\n{{"text": "c"}}\n', 2),
        ("a.jsonl", f'{{"text": "{PAD}"}}\n{{"text": "a\\u0000b"}}\n{{"text": "c"}}\n', 2),
        ("a.jsonl", f'{{"text": "{PAD}"}}\n{{"a\\u0000b": ["c"]}}\n{{"text": "c"}}\n', 2),
    ],
)
def test_a_row_with_a_zero_character_is_damaged_wherever_it_stands(
    name: str, content: str, line: int, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    first, second, third = read(tmp_path / name)

    assert isinstance(first, dict)
    assert isinstance(third, dict)
    assert (first["text"].strip(), third["text"].strip()) == (PAD, "c")
    assert second == Reject(ZERO, f"{name}:{line}", is_damaged=True)


def test_an_escape_that_only_looks_like_a_zero_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": r"a\u0000b"}) + "\n")

    assert read(tmp_path / "a.jsonl") == [{"text": r"a\u0000b"}]


def test_a_whole_file_with_a_zero_byte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(f'{{"text": "{PAD}\0"}}')

    with pytest.raises(DataError, match=r"a\.json: must be UTF-8 text, found binary data"):
        read_json_file(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_other_columns_of_text_tables_are_left_out(tmp_path: Path, name: str) -> None:
    content = {"a.jsonl": '{"text": "x", "other": "y"}\n', "a.csv": "text,other\nx,y\n"}[name]
    (tmp_path / name).write_text(content)
    (chosen,) = with_columns(LocalRows([str(tmp_path / name)]).shards(), ["text"])

    assert list(chosen.rows()) == [{"text": "x"}]
