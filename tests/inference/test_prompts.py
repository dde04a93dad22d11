import io
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from biomamba.inference.text_generation import Prompt, read_prompts, read_stream
from biomamba.runtime.errors import ConfigError, DataError

SECRET = "Mrs. Doe"


def written(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_bytes(content.encode("utf-8"))
    return path


def test_lines_are_prompts(tmp_path: Path) -> None:
    path = written(tmp_path, "p.txt", "one \r\nna\u00efve\u2028two\nlast")

    assert read_prompts(path) == [Prompt("one "), Prompt("na\u00efve\u2028two"), Prompt("last")]


def test_objects_are_prompts_with_ids(tmp_path: Path) -> None:
    lines = (
        '{"prompt": "one\\ntwo", "id": "a"}\n{"prompt": "x", "id": 7, "more": 1}\n{"prompt": "y"}\n'
    )
    path = written(tmp_path, "p.jsonl", lines)

    assert read_prompts(path) == [Prompt("one\ntwo", "a"), Prompt("x", 7), Prompt("y")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", f"{SECRET}\n\nb\n", "line 2: the prompt is empty"),
        ("p.txt", "", "holds no prompt"),
        ("p.jsonl", f'{{"prompt": "a"}}\n{SECRET}\n', "line 2: it is not JSON"),
        ("p.jsonl", f'["{SECRET}"]\n', "line 1: must be an object with a text `prompt`"),
        ("p.jsonl", f'{{"promt": "{SECRET}"}}\n', "line 1: must be an object"),
        ("p.jsonl", f'{{"prompt": ["{SECRET}"]}}\n', "line 1: must be an object"),
        ("p.jsonl", '{"prompt": ""}\n', "line 1: the prompt is empty"),
        ("p.jsonl", f'{{"prompt": "{SECRET}", "id": [1]}}\n', "line 1: `id` must be .* is list"),
        ("p.jsonl", '{"prompt": "a", "id": true}\n', "line 1: `id` must be .* is bool"),
    ],
)
def test_faulty_line_is_named_but_not_quoted(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_prompts(written(tmp_path, name, content))
    assert SECRET not in str(caught.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    with pytest.raises(DataError, match=r"p\.txt: cannot be read: No such file"):
        read_prompts(path)
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"p\.txt: must be UTF-8 text, found not UTF-8 at byte 1"):
        read_prompts(path)
    with pytest.raises(ConfigError, match=r"p\.csv: must be a \.txt file .* or a \.jsonl file"):
        read_prompts(tmp_path / "p.csv")


def test_stream_is_one_prompt() -> None:
    assert read_stream(io.StringIO("one\ntwo\n")) == Prompt("one\ntwo")
    with pytest.raises(DataError, match="the prompt is empty"):
        read_stream(io.StringIO("\n"))


def test_terminal_is_no_prompt() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with pytest.raises(ConfigError, match="no prompt: give prompt="):
        read_stream(Terminal("x"))


def test_prompts_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"prompt: holds what is not UTF-8 at character 2"):
        Prompt("f\udce9ver")  # how an argument in Latin-1 arrives
    with pytest.raises(DataError, match="standard input: must be UTF-8"):
        read_stream(TextIOWrapper(BytesIO(b"f\xe9ver")))
    with pytest.raises(DataError, match=r"line 1: it holds half of a surrogate pair"):
        read_prompts(written(tmp_path, "p.jsonl", '{"prompt": "\\ud83d"}\n'))
    assert read_stream(TextIOWrapper(BytesIO(b"\xef\xbb\xbffever\n"))) == Prompt("fever")
