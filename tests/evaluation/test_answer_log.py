"""Answers survive kills, and files of other answers are refused."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from biomamba.evaluation.answer_model import AnswerLog, RawAnswer, read_published
from biomamba.runtime.errors import ConfigError, DataError

HEADER = {"task": "toy", "checkpoint_sha256": "c" * 64, "options": {"labels": ["yes", "no"]}}


def make_log(folder: Path, *, is_restricted: bool = False, **changes: Any) -> AnswerLog:
    return AnswerLog(folder / "predictions", "toy.model", HEADER | changes, is_restricted)


def answers(*keys: str) -> list[RawAnswer]:
    return [RawAnswer(key=key, log_probabilities=[-1.0, -float(key)]) for key in keys]


def append(log: AnswerLog, rank: int, *keys: str) -> None:
    with log.appending(rank) as appender:
        appender.add(answers(*keys))


def test_answers_of_all_ranks_are_merged_in_the_order_asked_for(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    append(log, 1, "2", "3")
    append(log, 0, "1")
    append(log, 0, "4")

    assert log.merge(["4", "2", "1"]) == answers("4", "2", "1")
    log.publish(answer.plain() for answer in log.merge(["1", "2", "3", "4"]))
    assert [path.name for path in log.folder.iterdir()] == ["toy.model.jsonl"]
    assert list(log.read().values()) == answers("1", "2", "3", "4")
    assert read_published(log.path).header == HEADER
    assert [row["key"] for row in read_published(log.path).rows] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("num_bytes", range(0, 300, 7))
def test_whatever_a_kill_leaves_is_gone_on_with(num_bytes: int, tmp_path: Path) -> None:
    log = make_log(tmp_path)
    append(log, 0, "1", "2", "3")
    whole = log.part(0).read_bytes()
    log.part(0).write_bytes(whole[:num_bytes])

    left = [key for key in ("1", "2", "3") if key not in log.read()]
    append(log, 0, *left)
    assert log.part(0).read_bytes() == whole


def test_half_a_line_of_another_rank_is_not_an_answer(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    append(log, 3, "1", "2")
    log.part(3).write_bytes(log.part(3).read_bytes()[:-1])

    assert list(log.read()) == ["1"]


def test_missing_answers_are_counted_and_named(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    append(log, 0, "1")

    with pytest.raises(DataError, match="2 of 3 items have no answer, the first are 7, 8; start"):
        log.merge(["7", "1", "8"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"checkpoint_sha256": "d" * 64}, "checkpoint_sha256 differ"),
        ({"options": {"labels": ["no", "yes"]}}, "options differ"),
        ({"further": 1, "task": "other"}, "further, task differ"),
    ],
)
def test_answers_to_something_else_are_refused(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    append(make_log(tmp_path), 0, "1")
    other = make_log(tmp_path, **changes)

    with pytest.raises(ConfigError, match=f"{named}; choose another run_id"):
        other.read()
    with pytest.raises(ConfigError, match=named), other.appending(0):
        pass
    assert list(make_log(tmp_path).read()) == ["1"]


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    with log.appending(0) as appender:
        appender.add(answers("1"))
        log.read()  # must not let go of the file
        with pytest.raises(ConfigError, match="another process appends to it"), log.appending(0):
            pass
        with log.appending(1):
            pass


def test_files_of_restricted_tasks_are_of_their_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir(mode=0o755)
    log = make_log(tmp_path, is_restricted=True)
    append(log, 0, "1")

    def modes() -> list[int]:
        paths = [log.folder, *log.folder.iterdir()]
        return [stat.S_IMODE(path.stat().st_mode) for path in paths]

    assert modes() == [0o700, 0o600]
    log.publish(answer.plain() for answer in log.merge(["1"]))
    assert modes() == [0o700, 0o600]


def test_a_damaged_line_is_named_and_not_quoted(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    append(log, 0, "1")
    for line in ('{"key": "a secret', '"a secret"', '{"a secret": 1}'):
        damaged = [*log.part(0).read_text().splitlines()[:2], line]
        log.part(0).write_text("\n".join(damaged) + "\n")
        with pytest.raises(DataError, match="line 3: damaged; remove") as caught:
            log.read()
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("header", ["{}", "[]", "a secret"])
def test_a_damaged_header_is_told(header: str, tmp_path: Path) -> None:
    log = make_log(tmp_path)
    append(log, 0, "1")
    log.part(0).write_text(header + "\n")

    with pytest.raises(DataError, match=r"part_0\.jsonl: its header is damaged"):
        log.read()


@pytest.mark.parametrize("content", [None, "", "{}", json.dumps([1]), '{"header": {}}\n{"key'])
def test_what_is_no_file_of_predictions_is_told(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "toy.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"toy\.jsonl: (cannot be read|not a file of predictions)"):
        read_published(path)
