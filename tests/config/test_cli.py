"""The start of a program: exit codes and what the user sees."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from biomamba.config import cli, compose
from biomamba.runtime.errors import DataError
from biomamba.runtime.signals import Interrupted

Program = Callable[[DictConfig], int | None]
Start = Callable[..., int]


@pytest.fixture
def start(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Return start(main, *arguments), which runs a program and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    for variable in ("HYDRA_FULL_ERROR", "RANK", "WORLD_SIZE", "SLURM_STEP_ID"):
        monkeypatch.delenv(variable, raising=False)
    for module in (cli, compose):
        monkeypatch.setattr(module, "conf_dir", lambda: conf)

    def _start(main: Program, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        try:
            cli.run_cli("train", main)
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return _start


def refuse(cfg: DictConfig) -> None:
    raise AssertionError("the program must not start")


def test_program_receives_the_config_in_the_folder_it_was_started_in(
    start: Start, tmp_path: Path
) -> None:
    seen: list[tuple[int, Path]] = []

    assert start(lambda cfg: seen.append((cfg.seed, Path.cwd())), "seed=5") == 0
    assert seen == [(5, tmp_path)]
    assert (tmp_path / "runs" / "test" / "one" / ".hydra" / "config.yaml").is_file()


def test_mistakes_stop_before_the_program_and_exit_with_2(
    start: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert start(refuse, "sed=5", "model.max_token=3") == 2

    text = capsys.readouterr().err
    assert text.startswith("error: 2 problems in the configuration of 'train':\n")
    assert "Traceback" not in text
    assert not (tmp_path / "runs").exists()


def test_error_of_the_program_is_one_line(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    def main(cfg: DictConfig) -> None:
        raise DataError("no store at data/x; run biomamba.prepare")

    assert start(main) == 2
    assert capsys.readouterr().err == "error: no store at data/x; run biomamba.prepare\n"


def test_error_names_the_rank_where_there_are_several(
    start: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")

    assert start(refuse, "sed=5") == 2
    assert capsys.readouterr().err.startswith("error (rank 3): ")


def test_missing_config_folder_is_named(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(refuse, "--config-dir", "nowhere") == 2
    assert capsys.readouterr().err == "error: --config-dir must name a folder, found nowhere\n"


def test_sweep_checks_each_job(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(refuse, "--multirun", "+optimizer.lrr=1,2", "hydra.sweep.dir=sweep") == 2
    assert "unknown key 'lrr'" in capsys.readouterr().err


def test_a_bad_job_does_not_end_the_others(
    start: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ran: list[int] = []

    def main(cfg: DictConfig) -> None:
        ran.append(cfg.seed)
        if cfg.seed == 3:
            raise DataError("no store")

    folders = ("hydra.sweep.dir=.", "hydra.sweep.subdir=${paths.run_dir}")
    assert start(main, "-m", "seed=1,-5,3,4", "run_id=r${seed}", *folders) == 2
    text = capsys.readouterr().err
    assert ran == [1, 3, 4]
    failed = [line for line in text.splitlines() if line.startswith("failed: ")]
    assert failed == [
        f"failed: job {number} (exit code 2): seed={seed} run_id=r${{seed}} {' '.join(folders)}"
        for number, seed in [(1, -5), (2, 3)]
    ]
    assert "seed: must be a whole number from 0 to 4294967295, found -5" in text
    assert "error: no store" in text
    assert text.splitlines()[-1] == "2 of 4 jobs succeeded"
    assert "Traceback" not in text
    assert sorted(path.name for path in (tmp_path / "runs/test").iterdir()) == ["r1", "r3", "r4"]


def test_a_defect_in_a_job_keeps_its_traceback_and_the_others_run(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[int] = []

    def main(cfg: DictConfig) -> int:
        ran.append(cfg.seed)
        return 7 if cfg.seed == 2 else 1 // (cfg.seed - 1)

    assert start(main, "hydra.mode=MULTIRUN", "seed=1,2,0", "run_id=r${seed}") == 1
    text = capsys.readouterr().err
    assert ran == [1, 2, 0]
    assert "ZeroDivisionError" in text
    assert "failed: job 1 (exit code 7): seed=2" in text
    assert "failed: job 0 (exit code 1): seed=1" in text


def test_a_sweep_without_failures_succeeds(
    start: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    numbers: list[tuple[int, int]] = []

    def main(cfg: DictConfig) -> None:
        numbers.append((cfg.seed, HydraConfig.get().job.num))

    folder = "hydra.sweep.dir=runs/${run_id}"
    assert start(main, "-m", "seed=8,9", "run_id=r${hydra:job.num}", folder) == 0
    assert numbers == [(8, 0), (9, 1)]
    assert (tmp_path / "runs/r1/1/.hydra/config.yaml").is_file()
    assert capsys.readouterr().err.splitlines()[-1] == "2 of 2 jobs succeeded"


@pytest.mark.parametrize(
    ("run_dir", "words"),
    [
        ("file", "file: File exists"),
        ("file/below", "file/below: Not a directory"),
        ("dangling", "dangling: File exists"),
        ("loop/x", "loop/x: Too many levels"),
        ("/proc/no/x", "/proc/no: No such file"),
    ],
)
def test_a_run_folder_that_cannot_be_made_is_one_line(
    start: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path, run_dir: str, words: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")

    assert start(refuse, f"paths.run_dir={run_dir}") == 2
    text = capsys.readouterr().err
    assert text.startswith(f"error: {words}")
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EISDIR])
def test_what_the_system_refuses_is_one_line(
    start: Start, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def main(cfg: DictConfig) -> None:
        raise OSError(number, os.strerror(number), "data/.store.1a2b3c4d.tmp")

    assert start(main) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"error: data/store: {os.strerror(number)}; ")
    assert len(text.splitlines()) == 1


def test_an_error_of_a_connection_or_without_a_number_is_a_defect(start: Start) -> None:
    def main(cfg: DictConfig) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    def library(cfg: DictConfig) -> None:
        raise OSError("anything")

    assert (start(main), start(library)) == (1, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run_id=${x}"],
        ["run_id=${seed.x}"],
        ["run_id=${oc.env:NO_SUCH_VARIABLE}"],
        ["--cfg", "job", "sed=3"],
        ["--cfg", "job", "--resolve", "run_id=${x}"],
        ["--config-name", "nope"],
        ["hydra.run.dir=${x}"],
        ["-m", "seed=1,"],
        ["-m", "seed=range("],
    ],
)
def test_what_hydra_refuses_is_no_traceback(
    start: Start, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert start(refuse, *arguments) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert text.count("error: ") == 1


def test_printing_the_config_runs_nothing(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(refuse, "--cfg", "job", "seed=9") == 0
    assert "seed: 9" in capsys.readouterr().out


def test_program_may_choose_its_exit_code(start: Start) -> None:
    assert start(lambda cfg: 85) == 85


def test_interruption_exits_with_130(start: Start) -> None:
    def main(cfg: DictConfig) -> None:
        raise KeyboardInterrupt

    assert start(main) == 130


def test_defect_keeps_its_traceback(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    def main(cfg: DictConfig) -> None:
        raise ZeroDivisionError("a defect")

    assert start(main) == 1
    assert "Traceback" in capsys.readouterr().err


def test_full_error_shows_the_traceback_of_a_mistake(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    with pytest.raises(ValueError, match="unknown key 'sed'"):
        start(refuse, "sed=5")


def test_a_run_that_can_go_on_ends_with_75_and_says_what_was_saved(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(cfg: DictConfig) -> None:
        raise Interrupted("SIGTERM: saved step 3", is_settled=True)

    assert start(stop) == 75
    assert capsys.readouterr().err == "stopped: SIGTERM: saved step 3\n"


def test_a_run_that_stops_before_its_first_step_is_requeued(
    start: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(cfg: DictConfig) -> None:
        raise Interrupted("SIGUSR1 before the first step")

    ignored: list[bool] = []
    monkeypatch.setattr(cli.slurm, "requeue", lambda: "job 7 is in the queue again")
    monkeypatch.setattr(cli.signals, "ignore", lambda: ignored.append(True))
    assert start(stop) == 75
    assert ignored  # what ends the other ranks may not change the code
    message = "stopped: SIGUSR1 before the first step; job 7 is in the queue again\n"
    assert capsys.readouterr().err == message


def test_a_signal_during_the_imports_stops_before_the_program(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt() -> None:
        raise Interrupted("SIGTERM before the first step")

    monkeypatch.setattr(cli.signals, "check", interrupt)
    monkeypatch.setattr(cli.slurm, "requeue", lambda: "")
    assert start(refuse) == 75
    assert not (tmp_path / "runs").exists()
