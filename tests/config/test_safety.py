"""What a config file of someone else may not do."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from biomamba.config import cli, compose, safety
from biomamba.config.compose import preflight
from biomamba.runtime.errors import ConfigError

SECRET = "hf_abcdef"
CALLS_A_NAME = "{handlers: {x: {(): biomamba.stand_in.make, a: b}}}"
HYDRA_NODES = {
    "hydra.launcher._target_": "{launcher: {_target_: biomamba.stand_in.make}}",
    "hydra.sweeper._target_": "{sweeper: {_target_: biomamba.stand_in.make}}",
    "hydra.callbacks": "{callbacks: {x: {_target_: biomamba.stand_in.make}}}",
    "hydra.job.env_set": "{job: {env_set: {GIT_CONFIG_COUNT: '1'}}}",
    "hydra.job.name": "{job: {name: ../../x}}",
    "hydra.output_subdir": "{output_subdir: ../x}",
    "hydra.job_logging.handlers.x.()": f"{{job_logging: {CALLS_A_NAME}}}",
    "hydra.hydra_logging.handlers.x.()": f"{{hydra_logging: {CALLS_A_NAME}}}",
    "hydra.job_logging.formatters.simple.class": (
        "{job_logging: {formatters: {simple: {class: a.B}}}}"
    ),
    "hydra.job_logging.handlers.file.class": (
        "{job_logging: {handlers: {file: {class: logging.handlers.SocketHandler}}}}"
    ),
    "hydra.job_logging.handlers.file.filename": (
        "{job_logging: {handlers: {file: {filename: elsewhere.log}}}}"
    ),
    "hydra.job_logging.handlers.console.stream": (
        "{job_logging: {handlers: {console: {stream: ext://os.environ}}}}"
    ),
    "hydra.job_logging.handlers.console.level": (
        "{job_logging: {handlers: {console: {level: ext://os.environ}}}}"
    ),
    "hydra.job_logging.filters": "{job_logging: {filters: {x: {(): biomamba.stand_in.make}}}}",
}


def refused(conf: Path, content: str, place: str = "experiment/other.yaml") -> str:
    """Return the text of the refusal of a file that --config-dir offers."""
    folder = conf.parent / "other"
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        preflight("train", ["+experiment=other"], conf, extra_dir=folder)
    return str(caught.value)


@pytest.mark.parametrize("key", HYDRA_NODES)
def test_keys_of_hydra_that_run_or_write_something_are_refused(conf: Path, key: str) -> None:
    text = refused(conf, f"# @package _global_\nhydra: {HYDRA_NODES[key]}\n")

    assert f"{key}: " in text


@pytest.mark.parametrize("option", ["default", "disabled", "none", "stdout"])
def test_the_options_of_hydra_pass(conf: Path, option: str) -> None:
    preflight("train", [f"hydra/job_logging={option}", "hydra.output_subdir=null"], conf)


@pytest.mark.parametrize("value", ["${oc.env:HF_TOKEN}", "${oc.env:HF_TOKEN,x}", "${oc.env:PATH}"])
def test_other_variables_of_the_environment_are_refused_by_name(
    conf: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    for place in ("name", "run_id", "paths: {data_dir", "hydra: {job: {name"):
        ends = "}" * place.count("{")
        text = refused(conf, f'# @package _global_\n{place}: "{value}"{ends}\n')

        assert value[9:].split(",")[0].rstrip("}") in text
        assert SECRET not in text


@pytest.mark.parametrize(
    "name", ["SLURM_JWT", "BIOMAMBA_API_KEY", "SLURM_x_password", "slurm_job_id", "WANDB_API_KEY"]
)
def test_variables_that_may_hold_a_secret_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, SECRET)
    safety.restrict_environment()
    cfg = OmegaConf.create({"a": f"${{oc.env:{name}}}", "b": f"${{oc.decode:${{oc.env:{name}}}}}"})

    for key in ("a", "b"):
        with pytest.raises(Exception, match=name) as caught:
            cfg[key]
        assert SECRET not in str(caught.value)


def test_variables_of_the_list_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.delenv("BIOMAMBA_DATA", raising=False)
    safety.restrict_environment()
    cfg = OmegaConf.create(
        {
            "a": "${oc.env:SLURM_JOB_ID,x}",
            "b": "${oc.env:BIOMAMBA_DATA,x}",
            "c": "${oc.env:BIOMAMBA_DATA,null}",
            "d": "${oc.env:BIOMAMBA_DATA}",
        }
    )

    assert (cfg.a, cfg.b, cfg.c) == ("17", "x", None)
    with pytest.raises(Exception, match="'BIOMAMBA_DATA' is not set"):
        cfg.d  # noqa: B018


@pytest.mark.parametrize("name", ["/../outside/x", "../../outside/x"])
def test_files_outside_the_folder_are_not_read(conf: Path, name: str) -> None:
    outside = conf.parent / "outside" / "x.yaml"
    outside.parent.mkdir()
    outside.write_text("name: outside\n", encoding="utf-8")

    text = refused(conf, f"# @package _global_\ndefaults: [{name}]\n")

    assert "outside its folder" in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("name: !!python/object/apply:os.system [true]", "tag"),
        (f"data: {'[' * 200_000}{']' * 200_000}", "nested deeper"),
        ("data: &a {x: *a}", "the alias *a"),
        (f"name: {'x' * 2_000_000}", "larger than"),
        (
            "data: {a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], "
            + ", ".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9))
            + "}",
            "more than",
        ),
    ],
)
def test_files_that_would_take_the_memory_or_run_something_are_refused(
    conf: Path, content: str, reason: str
) -> None:
    assert reason in refused(conf, f"# @package _global_\n{content}\n")


def test_a_package_named_by_a_file_is_not_imported(conf: Path) -> None:
    folder = conf.parent / "other"
    folder.mkdir()
    (folder / "mine.yaml").write_text("hydra: {searchpath: ['pkg://antigravity']}")
    sys.modules.pop("antigravity", None)

    with pytest.raises(ConfigError, match="pkg://antigravity"):
        preflight("mine", [], conf, extra_dir=folder)
    assert "antigravity" not in sys.modules


@pytest.fixture
def start(conf: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return start(*arguments), which runs a program that does nothing, and gives its exit code."""
    monkeypatch.chdir(conf.parent)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    for module in (cli, compose, safety):
        monkeypatch.setattr(module, "conf_dir", lambda: conf)

    def main(cfg: DictConfig) -> None:
        raise AssertionError("the program must not start")

    def _start(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.run_cli("train", main)
        return int(stop.value.code or 0)

    return _start


@pytest.mark.parametrize("arguments", [["-m"], ["--cfg", "job", "--resolve"]])
@pytest.mark.parametrize(
    "content",
    ["hydra: {callbacks: {x: {_target_: biomamba.stand_in.make}}}", 'name: "${oc.env:HF_TOKEN}"'],
)
def test_other_ways_to_compose_follow_the_same_rules(
    conf: Path,
    start: Callable[..., int],
    arguments: list[str],
    content: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    (conf / "debug" / "other.yaml").write_text(f"# @package _global_\n{content}\n")

    code = start(*arguments, "+debug=other", "hydra.sweep.dir=sweep")

    printed: Any = capfd.readouterr()
    assert code == 2
    assert SECRET not in printed.out + printed.err
    assert "Traceback" not in printed.err


def test_a_pickled_job_is_not_run_again(start: Callable[..., int], tmp_path: Path) -> None:
    assert start("--experimental-rerun", str(tmp_path / "config.pickle")) == 2
