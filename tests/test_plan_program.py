"""`python -m biomamba.plan` on the shipped experiments, a tiny probe and a run."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from biomamba.config.safety import conf_dir
from biomamba.plan import DOES_NOT_FIT_CODE, main, submitted
from biomamba.runtime.errors import ConfigError, DataError

Compose = Callable[..., DictConfig]
CPT = sorted(
    path.stem
    for path in (conf_dir() / "experiment" / "cpt").glob("*.yaml")
    if path.stem not in {"_base", "prepare"} and "small" not in path.stem
)
TINY = ("max_tokens=4_096", "tokens_per_step=1_024", "data.budget.seq_len=128")


@pytest.fixture
def plan(
    compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int | None, dict[str, Any], str]]:
    """Return plan(*overrides): exit code, the written plan, and what was printed."""

    def _plan(*overrides: str) -> tuple[int | None, dict[str, Any], str]:
        output = tmp_path / "plan.json"
        code = main(compose("plan", f"output={output}", *overrides))
        return code, json.loads(output.read_text()), capsys.readouterr().out

    return _plan


@pytest.mark.parametrize("name", CPT)
def test_every_shipped_experiment_fits_the_cards_it_names(
    name: str, plan: Callable[..., Any]
) -> None:
    code, found, text = plan(f"+experiment=cpt/{name}", "hardware=v100_8")

    assert code is None, text
    assert found["memory_per_rank"]["fits"]
    assert found["rate"]["kind"] == "assumed"
    assert found["largest_micro_batch_size"] >= found["settings"]["micro_batch_size"]


def test_a_fine_tuning_is_planned_for_so_many_tokens(plan: Callable[..., Any]) -> None:
    size = ("data.budget.epochs=null", f"max_tokens={10 * 131_072}")
    _, found, _ = plan("+experiment=sft/qa_130m", *size)

    assert (found["steps"], found["settings"]["accumulation"]) == (10, 128 // 16)


def test_the_keys_of_the_training_count(plan: Callable[..., Any]) -> None:
    base = plan(*TINY)[1]
    changed = plan(
        *TINY,
        "callbacks=ema",
        "model.activation_checkpointing=true",
        "objective.gradient_sums=float64",
        "trainer.val_check_interval=2",
    )[1]

    parts = changed["memory_per_rank"]["components_bytes"]
    assert parts["moving average"] == parts["weights"]
    assert parts["float64 gradient sums"] == 2 * parts["weights"]
    activations = "activations of blocks"
    assert parts[activations] < base["memory_per_rank"]["components_bytes"][activations]
    assert changed["duration"]["num_validations"] == 1 + 2
    assert base["steps"] == 4


def test_what_does_not_fit_ends_with_a_code_of_its_own(plan: Callable[..., Any]) -> None:
    code, found, text = plan(*TINY, "hardware.memory_gib=0.1", "hardware.reserved_gib=0.2")

    assert code == DOES_NOT_FIT_CODE
    assert not found["memory_per_rank"]["fits"]
    assert "DOES NOT FIT" in text


def test_a_probe_measures_the_step_on_this_machine(plan: Callable[..., Any]) -> None:
    steps = ("probing.steps=2", "probing.warmup_steps=1", "probing.micro_batches=1")
    _, found, text = plan(*TINY, "data.budget.micro_batch_size=1", "probe=true", *steps)

    rate = found["rate"]
    assert rate["kind"] == "measured"
    assert 0 < rate["low"] <= rate["tokens_per_second"] <= rate["high"]
    assert "measured: 2 training steps on this machine" in text
    rounding = 1e-12  # seconds pass through hours
    training_seconds = 4_096 / rate["tokens_per_second"]
    assert found["duration"]["hours"] * 3_600 >= training_seconds * (1 - rounding)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("hardware=v100_8", "probe=true"), "a rate measured here says nothing about it"),
        (("hardware.devices_per_node=2", "probe=true"), "make them equal"),
        (("hardware.devices_per_node=3",), "world_size=3"),
        (("trainer.precision=bf16-true",), "trainer.precision"),
        (("max_tokens=null",), "set max_tokens"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(
    overrides: tuple[str, ...], message: str, plan: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(*overrides)


def test_a_run_stands_beside_its_plan(
    compose: Compose, plan: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(compose("train", *TINY)))
    (run / ".hydra" / "overrides.yaml").write_text("- seed=3\n- run_id=a\n")
    record = {"parameters": {"total": 473_056, "trained": 473_056}, "starts": [{"world_size": 1}]}
    (run / "run.json").write_text(json.dumps(record))

    code, found, text = plan(f"run={run}")

    assert code is None
    assert found["steps"] == 4
    ratios = {row["name"]: row["ratio"] for row in found["run"]}
    assert (ratios["parameters"], ratios["ranks"], ratios["hours"]) == (1, 1, None)
    assert "not known" in text
    assert found["slurm"]["command"].endswith("train.sbatch seed=3")


@pytest.mark.parametrize("content", [None, "a: [", "{}", "[]"])
def test_a_folder_that_is_no_run_is_named(
    content: str | None, plan: Callable[..., Any], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / ".hydra").mkdir()
        (tmp_path / ".hydra" / "config.yaml").write_text(content)

    with pytest.raises(DataError, match=r"config\.yaml: "):
        plan(f"run={tmp_path}")


@pytest.mark.parametrize("content", ["notes", "[]", "null", "{}", '{"hardware": {}}', None])
def test_a_file_that_is_no_plan_is_not_replaced(
    content: str | None, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomamba.plan.make_plan", pytest.fail)  # found before the work
    output = tmp_path / "notes.json"
    if content is None:
        output.mkdir()
    else:
        output.write_text(content)
    with pytest.raises(ConfigError, match=r"notes\.json, which is not an earlier plan"):
        main(compose("plan", f"output={output}", *TINY))
    assert content is None or output.read_text() == content


def test_an_earlier_plan_is_replaced(plan: Callable[..., Any]) -> None:
    first = plan(*TINY, "max_tokens=8192")[1]
    second = plan(*TINY, "max_tokens=16384")[1]

    assert (first["tokens"], second["tokens"]) == (8192, 16384)


def test_the_line_to_submit_leaves_out_what_only_the_plan_takes() -> None:
    given = ["+experiment=x", "hardware=cpu", "hardware.num_nodes=2", "probe=true", "seed=3"]

    assert submitted([*given, "allowance.limit_hours=4", "~logger", "run_id=a"]) == [
        "+experiment=x",
        "seed=3",
        "~logger",
    ]


@pytest.mark.slow
def test_the_command_writes_a_plan_and_no_run_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "biomamba.plan", *TINY, "name=x"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["plan"]
    assert done.stdout.splitlines()[-1] == "plan: runs/plan/x.json"


@pytest.fixture
def foreign_run(compose: Compose, tmp_path: Path) -> Callable[[str, Any], str]:
    """Return foreign_run(key, value): the folder of a run with one setting changed."""

    def _run(key: str, value: Any) -> str:
        config = compose("train", *TINY)
        OmegaConf.update(config, key, value, force_add=True, merge=False)
        path = tmp_path / "run" / ".hydra" / "config.yaml"
        path.parent.mkdir(parents=True)
        OmegaConf.save(config, path)
        return str(tmp_path / "run")

    return _run


GIT = {"_target_": "biomamba.runtime.provenance._git", "_args_": ["-c", "alias.x=!touch pwned"]}
LOAD = {
    "_target_": "lightning.fabric.utilities.cloud_io._load",
    "path_or_url": "x",
    "weights_only": False,
}


@pytest.mark.parametrize("probe", ["true", "false"])
@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("model.config", GIT, "model.config"),
        ("model.backend", LOAD, "model.backend"),
        ("model.adaptation", {"lora": LOAD}, "model.adaptation.lora"),
        ("data.budget", GIT, "data.budget"),
        ("objective", GIT, "objective"),
        ("model.config", {"_target_": "${oc.decode:os.system}"}, "model.config"),
        ("model.config", "${oc.create:{_target_: os.system, command: x}}", "model.config"),
        ("data.budget.seq_len", "many", "data.budget"),
        ("model.config.n_layer", 1_000_000_000, "model.config"),
        ("model.config.d_model", "${oc.env:HF_TOKEN}", "HF_TOKEN"),
        ("model.activation_checkpointing", "yes", "activation_checkpointing"),
        ("callbacks.checkpoint", 5, "callbacks.checkpoint"),
        ("callbacks", 5, "callbacks"),
        ("trainer", 5, "trainer"),
        ("data", None, "data.budget"),
        ("model", [1], "model.config"),
        ("trainer.val_check_interval", "often", "trainer.val_check_interval"),
    ],
)
def test_settings_of_a_run_are_checked_before_anything_is_built(
    key: str,
    value: Any,
    named: str,
    probe: str,
    compose: Compose,
    foreign_run: Callable[[str, Any], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    folder = foreign_run(key, value)

    with pytest.raises(DataError, match=r"config\.yaml") as caught:
        main(compose("plan", f"run={folder}", f"probe={probe}", "hardware=cpu", "output=null"))

    assert named in str(caught.value)
    assert "hf_made_up" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("key", ["trainer.strategy", "optimizer", "schedule"])
def test_what_only_a_probe_builds_is_checked_for_a_probe(
    key: str, compose: Compose, foreign_run: Callable[[str, Any], str]
) -> None:
    with pytest.raises(DataError, match=rf"config\.yaml(.|\n)*{key}"):
        main(compose("plan", f"run={foreign_run(key, GIT)}", "probe=true", "output=null"))
