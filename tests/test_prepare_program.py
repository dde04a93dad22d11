"""`python -m biomamba.prepare` as a user configures it."""

import json
from pathlib import Path

import pytest

from biomamba.config.compose import compose_config
from biomamba.data.store.format import CONTAMINATION_NAME
from biomamba.data.store.reader import TokenSplit, open_stores
from biomamba.prepare import main
from biomamba.runtime.files import read_sealed


def words(name: str, count: int = 40) -> str:
    return " ".join(f"{name}word{number}" for number in range(count))


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("switch", ["on", "off"])
def test_the_firewall_can_be_switched_off_whatever_the_benchmarks(
    tmp_path: Path, switch: str
) -> None:
    rows = [{"text": words(f"document{number}")} for number in range(30)]
    write_lines(tmp_path / "corpus.jsonl", rows)
    write_lines(
        tmp_path / "questions.jsonl", [{"question": rows[number]["text"]} for number in (3, 7)]
    )
    main(
        compose_config(
            "prepare",
            (
                "corpus=[files]",
                f"corpora.files.rows.files=[{tmp_path}/corpus.jsonl]",
                "corpora.files.domain=web",
                "benchmark=[texts]",
                f"cleaning.firewall.benchmarks.texts.files=[{tmp_path}/questions.jsonl]",
                f"firewall={switch}",
                f"paths.data_dir={tmp_path}",
                "name=set",
            ),
        )
    )
    report = read_sealed(tmp_path / "set" / CONTAMINATION_NAME)
    stores = open_stores([str(tmp_path / "set" / "files")])
    kept = sum(len(TokenSplit.open(stores, split)) for split in ("train", "val", "test"))

    assert report["is_firewall_on"] is (switch == "on")
    assert len(report["documents"]) == (2 if switch == "on" else 0)
    assert kept == (28 if switch == "on" else 30)
