"""`python -m biomamba.reproduce`: checked before it runs, stopped and killed in the middle."""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from biomamba.config.check import build
from biomamba.config.compose import checked_settings, preflight
from biomamba.config.safety import conf_dir
from biomamba.reproduce import configs_of, main
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.signals import Interrupted
from biomamba.workflow import runner as process
from biomamba.workflow.chain import Chain, Step

Compose = Callable[..., DictConfig]
CHAINS = sorted(
    path.stem for path in (conf_dir() / "chain").glob("*.yaml") if not path.stem.startswith("_")
)
# Stands in for every program: makes the folder of the step, fails or is stopped where asked.
PROGRAM = """#!/usr/bin/env bash
step=$(grep -oE '(run_dir|output)=[^ ]+' <<< "${!#} $*" | head -n 1 | cut -d= -f2)
mkdir -p "$step"
echo "ran $*"
[[ -f fail && $(cat fail) == $(basename "$step") ]] && exit 2
[[ -f stop && $(cat stop) == $(basename "$step") ]] && exit 75
basename "$step" >> ran
"""
STEPS = ["data", "base", "cpt", "perplexity", "report"]


@pytest.fixture
def reproduce(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int | None]:
    """Return reproduce(*overrides): the program in a folder of its own, with a stand-in.

    Settings are composed where a test is about them only, because that takes long.
    """
    program = tmp_path / "program"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("biomamba.workflow.runner._POLL_SECONDS", 0.02)
    monkeypatch.setattr("biomamba.reproduce.checked_settings", lambda *_: {})

    def _reproduce(*overrides: str) -> int | None:
        with monkeypatch.context() as patch:
            patch.setattr(process.sys, "executable", str(program))
            return main(compose("reproduce", *overrides))

    return _reproduce


def ran() -> list[str]:
    """Return the steps that were run to their end since the last call."""
    path = Path("ran")
    found = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def checked(name: str, compose: Compose) -> list[Step]:
    """Check one step of each entry of a chain as its program would, and return all steps."""
    chain: Chain = build(compose("reproduce", f"chain={name}").chain)
    steps = chain.expand("runs", ("paths.data_dir=data", "paths.raw_dir=raw"))
    for step in {step.template: step for step in steps}.values():
        preflight(step.program, step.arguments)
    return list(steps)


@pytest.mark.parametrize("name", ["ablations", "paper_130m", "small"])
def test_a_chain_goes_from_data_to_a_report(name: str, compose: Compose) -> None:
    steps = checked(name, compose)

    assert (steps[0].program, steps[-1].program) == ("prepare", "report")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow_extra] if name == "ablations" else [])
        for name in CHAINS
    ],
)
def test_every_step_of_every_chain_can_be_run(name: str, compose: Compose) -> None:
    configs_of(checked(name, compose))


def test_a_dry_run_prints_commands_and_runs_nothing(
    reproduce: Callable[..., int | None], capsys: pytest.CaptureFixture[str]
) -> None:
    reproduce("dry_run=true")
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    programs = ["prepare", "train", "train", "evaluate", "report"]

    assert [line[:3] for line in lines] == [["python", "-m", f"biomamba.{p}"] for p in programs]
    assert ran() == []
    assert not Path("runs").exists()


def test_a_chain_is_run_once_and_then_finished(reproduce: Callable[..., int | None]) -> None:
    assert reproduce() is None
    assert ran() == STEPS
    assert reproduce() is None
    assert ran() == []


def test_a_failing_step_ends_it_with_its_code_and_the_end_of_its_log(
    reproduce: Callable[..., int | None], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("fail").write_text("cpt")
    assert reproduce() == 2
    assert ran() == ["data", "base"]
    error = capsys.readouterr().err
    assert "ran -m biomamba.train" in error
    assert "step cpt failed with code 2" in error
    assert "runs/reproduce/embedded/logs/cpt.log" in error

    Path("fail").unlink()
    assert reproduce() is None
    assert ran() == STEPS[2:]


def test_a_stopped_step_stops_it_and_the_next_start_goes_on(
    reproduce: Callable[..., int | None],
) -> None:
    Path("stop").write_text("base")
    with pytest.raises(Interrupted, match="base was asked to stop, 4 steps are left"):
        reproduce()
    assert ran() == ["data"]

    Path("stop").unlink()
    reproduce()
    assert ran() == STEPS[1:]


def test_a_changed_command_runs_again_only_when_it_is_asked_for(
    reproduce: Callable[..., int | None],
) -> None:
    reproduce()
    ran()
    change = "+chain.steps.cpt.more=['optimizer.lr=0.1']"
    with pytest.raises(ConfigError, match=r"cpt .*optimizer.lr=0.1.*rerun=\[cpt\]"):
        reproduce(change)
    assert ran() == []

    reproduce(change, "rerun=[cpt]")
    assert ran() == ["cpt", "perplexity", "report"]
    assert Path("runs/reproduce/embedded/replaced/cpt-1").is_dir()
    reproduce(change)
    assert ran() == []


def test_data_that_is_made_anew_may_replace_its_stores(
    reproduce: Callable[..., int | None],
) -> None:
    reproduce()
    reproduce("rerun=[data]")

    log = Path("runs/reproduce/embedded/logs/data.log").read_text()
    assert log.count("overwrite=true") == 2  # the command and what the program says
    assert len(ran()) == 2 * len(STEPS)


def test_a_step_whose_folder_is_gone_must_be_run_again_with_the_rest(
    reproduce: Callable[..., int | None],
) -> None:
    reproduce()
    ran()
    Path("runs/reproduce/embedded/base").rmdir()
    with pytest.raises(ConfigError, match=r"cpt is finished, but base .*rerun=\[base\]"):
        reproduce()

    reproduce("rerun=[base]")
    assert ran() == STEPS[1:]


def test_changed_settings_behind_the_same_command_are_told(
    reproduce: Callable[..., int | None], capsys: pytest.CaptureFixture[str]
) -> None:
    reproduce()
    path = Path("runs/reproduce/embedded/steps/cpt.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"settings_sha256": "other"}))
    capsys.readouterr()
    reproduce()

    assert "changed since cpt finished" in capsys.readouterr().out


def test_problems_of_all_steps_are_told_before_anything_runs(
    reproduce: Callable[..., int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomamba.reproduce.checked_settings", checked_settings)
    with pytest.raises(ConfigError) as found:
        reproduce(
            "chain.steps.base.overrides=['+experiment=demo/pretrian']",
            "+chain.steps.cpt.more=['optimizer.lrr=1']",
        )

    assert "base: " in str(found.value)
    assert "pretrian" in str(found.value)
    assert "cpt: " in str(found.value)
    assert "lrr" in str(found.value)
    assert ran() == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("jobs=0", "jobs must be"),
        ("print=bash", "print is 'bash'"),
        ("rerun=[bse]", "unknown step 'bse' .*base"),
    ],
)
def test_nothing_runs_where_something_is_wrong(
    override: str, words: str, reproduce: Callable[..., int | None]
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        reproduce(override)
    assert ran() == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+chain.steps.cpt.aftr=[base]", "did you mean 'after'"),
        ("+chain.steps.cpt.after=[report]", "in a circle"),
    ],
)
def test_a_chain_that_cannot_run_is_refused_before_it_is_built(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        preflight("reproduce", [override])


@pytest.mark.parametrize("name", ["small", "paper_130m"])
def test_missing_files_are_named_all_at_once(
    name: str, reproduce: Callable[..., int | None]
) -> None:
    files: Any = OmegaConf.load(conf_dir() / "chain" / "_paper.yaml").raw_files
    if name == "small":
        files = OmegaConf.load(conf_dir() / "chain" / "_real_text_files.yaml")
    with pytest.raises(DataError) as found:
        reproduce(f"chain={name}", "paths.raw_dir=nowhere")

    assert all(f"  {file}: " in str(found.value) for file in files)
    assert ran() == []


TINY = """
_target_: biomamba.workflow.chain.Chain
name: tiny
title: tiny
steps:
  data:
    program: prepare
    overrides: [corpora.biomedical.num_documents=100, corpora.web.num_documents=100,
      corpora.encyclopaedic.num_documents=100]
  train:
    program: train
    each: {seed: [1, 2]}
    overrides: ["seed={seed}", max_tokens=61_440, tokens_per_step=1_024, data.budget.seq_len=128,
      model.config.d_model=32, model.config.n_layer=1, trainer.val_check_interval=60,
      callbacks.checkpoint.every_n_steps=5, callbacks.checkpoint.keep_last=100,
      data.max_val_documents=2]
  score:
    program: evaluate
    after: [train]
    overrides: ["checkpoint=${paths.run_dir}/train-1/model",
      "baseline=${paths.run_dir}/train-2/model",
      evaluation.max_documents=2, evaluation.seq_len=128]
"""
PATIENCE_SECONDS = 600.0


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return tiny(folder, *overrides): the program with a chain of four small steps, started."""
    chain = tmp_path / "conf" / "chain" / "tiny.yaml"
    chain.parent.mkdir(parents=True)
    chain.write_text(TINY)
    started: list[subprocess.Popen[str]] = []

    def _tiny(folder: str, *overrides: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "biomamba.reproduce", "--config-dir", "conf", "chain=tiny"]
        started.append(
            subprocess.Popen(
                [*command, f"paths.run_dir={folder}", *overrides],
                cwd=tmp_path,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield _tiny
    for running in started:
        running.kill()
        running.communicate()


def finish(running: subprocess.Popen[str]) -> tuple[int, str]:
    text, _ = running.communicate(timeout=PATIENCE_SECONDS)
    return running.returncode, text


def wait_for_checkpoint(folder: Path, behind: int) -> int:
    """Wait until a run has saved after a step; return the newest saved one."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        steps = [int(path.stem.split("_")[1]) for path in folder.glob("checkpoints/step_*.ckpt")]
        if max(steps, default=0) > behind:
            return max(steps)
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint after step {behind} in {folder}")


def weights(folder: Path) -> list[str]:
    found = [folder / f"train-{seed}" / "model" / "model.safetensors" for seed in (1, 2)]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in found]


@pytest.mark.slow
def test_a_chain_that_was_stopped_and_killed_ends_with_the_same_bits(
    tiny: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    assert finish(tiny("straight", "jobs=2"))[0] == 0
    run = tmp_path / "broken" / "train-1"

    stopped = tiny("broken")
    saved = wait_for_checkpoint(run, 0)
    stopped.send_signal(signal.SIGTERM)
    code, text = finish(stopped)
    assert code == 75, text
    assert "3 steps are left; start the same command again to continue" in text
    data = (tmp_path / "broken" / "steps" / "data.json").read_bytes()
    assert (
        json.loads((tmp_path / "broken" / "steps" / "train-1.json").read_text())["exit_code"] == 75
    )

    killed = tiny("broken")
    wait_for_checkpoint(run, wait_for_checkpoint(run, saved - 1))
    killed.kill()
    finish(killed)
    assert not (run / "model").exists()

    code, text = finish(tiny("broken"))
    assert code == 0, text
    log = (tmp_path / "broken" / "logs" / "train-1.log").read_text()
    assert log.count("continuing after step ") == 2
    assert (tmp_path / "broken" / "steps" / "data.json").read_bytes() == data
    assert (tmp_path / "broken" / "logs" / "data.log").read_text().count("$ python") == 1
    assert weights(tmp_path / "broken") == weights(tmp_path / "straight")
    assert (tmp_path / "broken" / "score" / "results.jsonl").is_file()
