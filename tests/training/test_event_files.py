"""Event files of earlier starts come first, in their order."""

import time
from pathlib import Path

import pytest

from biomamba.training.run import holds_tag, put_before_now

NAME = "events.out.tfevents.{:010d}.host.7.0"


def make(folder: Path, *seconds: int) -> None:
    folder.mkdir(exist_ok=True)
    for number, second in enumerate(seconds):
        (folder / NAME.format(second)).write_text(str(number))


@pytest.mark.parametrize("now", [700, 899, 900, 1_000])
def test_earlier_files_are_sorted_before_one_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: int
) -> None:
    # Neighbors: each takes the name that the one before has just given up.
    make(tmp_path / "tensorboard", 800, 899, 900, 1_000)
    (tmp_path / "tensorboard" / "hparams.yaml").write_text("")
    monkeypatch.setattr(time, "time", lambda: now + 0.5)
    put_before_now(tmp_path)
    files = sorted((tmp_path / "tensorboard").glob("events*"))
    assert [path.read_text() for path in files] == ["0", "1", "2", "3"]
    assert files[-1].name < NAME.format(now)
    assert (tmp_path / "tensorboard" / "hparams.yaml").is_file()


def test_files_of_the_past_keep_their_names(tmp_path: Path) -> None:
    make(tmp_path / "tensorboard", 800, 900)
    put_before_now(tmp_path)
    assert (tmp_path / "tensorboard" / NAME.format(900)).is_file()
    put_before_now(tmp_path / "absent")


def test_a_tag_is_found_in_any_file_of_a_folder(tmp_path: Path) -> None:
    assert not holds_tag(tmp_path, "layout")
    (tmp_path / "hparams.yaml").write_text("layout")
    (tmp_path / NAME.format(1)).write_bytes(b"\x00val/loss")
    assert not holds_tag(tmp_path, "layout")
    (tmp_path / NAME.format(2)).write_bytes(b"\x00\x08layout\xff")
    assert holds_tag(tmp_path, "layout")
