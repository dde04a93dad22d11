"""What is shown while models answer."""

import io

import pytest
from rich.console import Console

from biomamba.evaluation.answers import AnswerProgress


def shown(num_items: int, num_done: int, *steps: int) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with AnswerProgress(console) as progress:
        line = progress.line("toy.model", num_items, num_done)
        for step in steps:
            line.advance(step)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_items_rate_and_task_are_shown() -> None:
    text = shown(20, 5, 3, 4)

    assert "toy.model" in text
    assert "12/20" in text
    assert "items/s" in text


def test_other_ranks_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    assert "toy.model" not in shown(20, 5, 3)
