"""`python -m biomamba.ledger` on small ledgers."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from biomamba.data.document import document_key
from biomamba.data.ledger import ENTRY_DTYPE, Chunk, Origin, Span
from biomamba.ledger import main
from biomamba.runtime.errors import ConfigError, DataError

Ask = Callable[..., str]


def write_run(folder: Path, documents: list[str], realised_tokens: int | None = None) -> None:
    """Write a run that takes one document of eight tokens per step, from two sources in turn."""
    rows = [(step, step % 2, document_key(name), 0, 8) for step, name in enumerate(documents)]
    origin = Origin("stream", ["pubmed", "web"], {"pubmed": [str(folder / "no" / "store")]})
    chunk = Chunk(origin, Span(0, len(rows), 0, 1), np.array(rows, dtype=ENTRY_DTYPE))
    chunk.write(folder / "ledger")
    if realised_tokens is not None:
        record = {
            "sources": {"pubmed": {"num_tokens": 32}},
            "realised": {"pubmed": {"tokens": realised_tokens}},
        }
        (folder / "run.json").write_text(json.dumps(record))


@pytest.fixture
def ask(
    compose: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Ask:
    """Return ask(*overrides): what the program prints about the run x."""
    write_run(tmp_path / "x", ["1", "a", "2", "b", "1", "1"], realised_tokens=24)

    def _ask(*overrides: str) -> str:
        main(compose("ledger", f"run={tmp_path / 'x'}", *overrides))
        return capsys.readouterr().out

    return _ask


def test_without_a_question_the_run_is_summed_up(ask: Ask) -> None:
    lines = ask().splitlines()
    assert "6 steps recorded, the last is step 5" in lines[0]
    pubmed = [cell.strip() for cell in lines[4].strip("|").split("|")]
    assert pubmed == ["pubmed", "24", "50.00%", "0.750", "2", "1x: 1, 2x: 1"]


def test_a_document_is_told_for_every_source(ask: Ask) -> None:
    for question in ("pmid=1", "document=1"):
        out = ask(question)
        assert "pubmed: TRAINED ON in 2 step(s), 2 time(s); 8 tokens, 16 with repetition" in out
        assert "web: TRAINED ON in 1 step(s)" in out


def test_a_source_narrows_the_question(ask: Ask) -> None:
    out = ask("document=1", "source=web")
    assert "web: TRAINED ON in 1 step(s)" in out
    assert "pubmed" not in out


def test_a_document_that_was_not_met_is_not_called_absent_without_its_stores(ask: Ask) -> None:
    out = ask("pmid=77")
    assert "pubmed: not in the recorded steps; whether it is in the corpus is not known" in out
    assert "no/store does not exist" in out
    assert "web: not in the recorded steps" in out
    assert "the run did not read token stores" in out


def test_two_runs_are_compared(ask: Ask, tmp_path: Path) -> None:
    write_run(tmp_path / "y", ["1", "a", "2", "c", "1", "1", "3"])
    out = ask(f"compare={tmp_path / 'y'}")
    assert "the first step that differs is 3" in out
    assert "y has 1 steps more" in out


def test_a_ledger_that_lacks_what_the_run_counted_is_refused(ask: Ask, tmp_path: Path) -> None:
    write_run(tmp_path / "x", ["1", "a", "2", "b", "1", "1"], realised_tokens=32)
    with pytest.raises(DataError, match="holds 24 tokens of pubmed, but the run counted 32"):
        ask()


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["pmid=1", "document=2"], "document and pmid are two questions"),
        (["pmid=1", "compare=y"], "pmid and compare are two questions"),
        (["source=web"], "source goes with document or pmid"),
        (["pmid=1", "source=c4"], "source is 'c4'; the run has pubmed, web"),
    ],
)
def test_impossible_questions_are_refused(overrides: list[str], match: str, ask: Ask) -> None:
    with pytest.raises(ConfigError, match=match):
        ask(*overrides)
