"""Files that others may have written: bounded, and checked in shape."""

import os
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest

from biomamba.runtime import input_files
from biomamba.runtime.errors import CheckpointError, DataError
from biomamba.runtime.input_files import check_shape, check_yaml, json_lines, parse_json, read_json


class Entry(TypedDict, total=False):
    """One start."""

    step: int
    rate: float | None


class Record(TypedDict, total=False):
    """A record of starts."""

    starts: list[Entry]
    names: dict[str, str]
    kind: Literal["a", "b"]
    done: bool


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"starts": [], "other": {"x": [1]}},
        {"starts": [{"step": 3, "rate": 1}, {"rate": None}, {"rate": 0.5}]},
        {"names": {"a": "b"}, "kind": "a", "done": True},
    ],
)
def test_content_of_the_shape_passes(content: Any) -> None:
    check_shape(content, Record, "run.json")


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ([], "its content"),
        (5, "its content"),
        (None, "its content"),
        ({"starts": 5}, "starts"),
        ({"starts": {}}, "starts"),
        ({"starts": [[]]}, "starts.0"),
        ({"starts": [{}, {"step": "3"}]}, "starts.1.step"),
        ({"starts": [{"step": True}]}, "starts.0.step"),
        ({"starts": [{"step": 1e400}]}, "starts.0.step"),
        ({"starts": [{"rate": "fast"}]}, "starts.0.rate"),
        ({"names": {"a": 1}}, "names.a"),
        ({"kind": "c"}, "kind"),
        ({"done": 1}, "done"),
    ],
)
def test_other_content_is_refused_by_key(content: Any, key: str) -> None:
    with pytest.raises(DataError, match=rf"^run\.json: {key} must be .*, found "):
        check_shape(content, Record, "run.json")


def test_a_required_key_is_named() -> None:
    class Strict(TypedDict):
        size: int

    with pytest.raises(DataError, match="size is missing"):
        check_shape({}, Strict, "x")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1,]", "nul", "[" * 200_000, '{"a":' * 200_000, "[" * 100 + "]" * 100, "9" * 10_000],
)
def test_what_is_no_json_or_too_deep_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"^config\.json: ") as caught:
        parse_json(text, "config.json", error=CheckpointError)
    assert len(str(caught.value)) < 200


def test_files_are_bounded_in_size(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": "' + "x" * 100 + '"}', encoding="utf-8")

    assert read_json(path, dict[str, str])["a"] == "x" * 100
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
    with pytest.raises(DataError, match=r"x\.jsonl line 2: its content must be an object"):
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
