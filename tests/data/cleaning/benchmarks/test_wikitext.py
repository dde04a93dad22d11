"""WikiText articles as benchmark items."""

import json
from pathlib import Path

import pytest

from biomamba.data.cleaning.benchmarks import WikiTextArticles
from biomamba.runtime.errors import ConfigError, DataError

LINES = ["", " = Rest = \n", "", " Rest is good . \n", "", " = Sleep = \n", "", " So is sleep . \n"]


def written(tmp_path: Path, lines: list[str]) -> WikiTextArticles:
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return WikiTextArticles([str(path)])


def test_an_item_is_an_article_named_by_its_title(tmp_path: Path) -> None:
    benchmark = written(tmp_path, LINES)

    assert [(item.id, item.title) for item in benchmark.items()] == [
        ("Rest", "Rest"),
        ("Sleep", "Sleep"),
    ]
    assert "Rest is good" in next(benchmark.items()).texts[0]
    assert list(benchmark.fingerprints()) == ["test.jsonl"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["cut in the middle\n", *LINES], "text before the first heading"),
        ([""], "holds no WikiText article"),
    ],
)
def test_a_file_of_another_layout_is_refused(lines: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        list(written(tmp_path, lines).items())


def test_damaged_rows_and_no_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text("not JSON\n")

    with pytest.raises(DataError, match="row is not JSON"):
        list(WikiTextArticles([str(tmp_path / "test.jsonl")]).items())
    with pytest.raises(ConfigError, match="files of WikiText is empty"):
        WikiTextArticles([])


def test_the_real_files_hold_their_articles(real_data: Path) -> None:
    folder = real_data / "wikitext-2-raw"
    items = list(WikiTextArticles([str(folder / "test.jsonl")]).items())

    assert len(items) == 60
