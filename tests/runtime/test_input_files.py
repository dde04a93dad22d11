"""Files that others may have written: bounded, and checked in shape."""

import os
from pathlib import Path
from typing import Any

import pytest

from biomamba.runtime import input_files
from biomamba.runtime.errors import CheckpointError, DataError
from biomamba.runtime.input_files import (
    COUNT,
    FLAG,
    OBJECT,
    TEXT,
    WHOLE,
    Each,
    Shape,
    check_shape,
    check_yaml,
    json_lines,
    loads,
    parse_json,
    read_json,
)

SHAPE: Shape = {
    "a": {"b": TEXT},
    "c": Each({"d": COUNT}),
    "e": Each(COUNT, is_list=True),
    "f": FLAG,
    "g": WHOLE,
}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": None, "other": [{}]},
        {"a": {"b": None}},
        {"a": {"b": "x"}, "c": {"k": {"d": 1}}, "e": [1, 2.5], "f": True, "g": 3},
    ],
)
def test_what_is_missing_or_null_is_allowed(value: Any) -> None:
    check_shape("f", value, SHAPE)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "the file is a list, not an object"),
        (5, "the file is a number, not an object"),
        ({"a": 3}, "a is a number, not an object"),
        ({"a": {"b": 3}}, "a.b is a number, not a text"),
        ({"c": []}, "c is a list, not an object"),
        ({"c": {"k": None}}, "c.k is NoneType, not an object"),
        ({"c": {"k": {"d": True}}}, "c.k.d is true or false, not a number"),
        ({"e": [1, "x"]}, "e.1 is a text, not a number"),
        ({"e": {"x": 1}}, "e is an object, not a list"),
        ({"f": 1}, "f is a number, not true or false"),
        ({"g": 1.5}, "g is a number, not a whole number"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(value: Any, told: str) -> None:
    with pytest.raises(DataError, match=f"f: {told}; it is damaged.*: copy it again"):
        check_shape("f", value, SHAPE)


def test_a_text_is_not_shown() -> None:
    with pytest.raises(DataError) as caught:
        check_shape("f", {"a": "Mr. Miller has a cough"}, SHAPE)
    assert "Miller" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1,]", "nul", "[" * 200_000, '{"a":' * 200_000, "[" * 100 + "]" * 100, "9" * 10_000],
)
def test_what_is_no_json_or_too_deep_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"^config\.json: ") as caught:
        parse_json(text, "config.json", error=CheckpointError)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["1e400", "-1e400", "1" * 50, '{"a": [1e999]}'])
def test_numbers_that_no_record_holds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        loads(text)


def test_words_of_older_records_are_read() -> None:
    assert loads('[Infinity, -Infinity, 1e308, -1, "1e400"]') == [
        float("inf"),
        float("-inf"),
        1e308,
        -1,
        "1e400",
    ]


def test_files_are_bounded_in_size(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": "' + "x" * 100 + '"}', encoding="utf-8")

    assert read_json(path, OBJECT)["a"] == "x" * 100
    with pytest.raises(DataError, match="larger than"):
        read_json(path, max_bytes=50)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin").write_bytes(b'{"a": "\xe9"}')

    for name in ("pipe", "folder", "latin"):
        with pytest.raises(DataError, match=name):
            read_json(tmp_path / name)


def test_lines_are_named_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n[]\n', encoding="utf-8")
    lines = json_lines(path)

    assert next(lines) == {"a": 1}
    with pytest.raises(DataError, match=r"x\.jsonl line 2: .* is a list, not an object"):
        next(lines)
    monkeypatch.setattr(input_files, "MAX_LINE_BYTES", 4)
    with pytest.raises(DataError, match="line 1: is longer"):
        next(json_lines(path, max_bytes=4))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "a: &a [*a]",
        "a: {b: [}",
        "\tx: 1",
        "a: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
        + "\n".join(f"b{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)),
    ],
)
def test_yaml_that_cannot_be_loaded_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(DataError, match=r"config\.yaml: "):
        check_yaml(path)


def test_usual_yaml_passes(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text in ("", "a: 1\n", "a: &x {b: 1}\nc: *x\nd: *x\n"):
        path.write_text(text, encoding="utf-8")
        check_yaml(path)
