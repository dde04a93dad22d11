"""Where a run continues, and what it refuses to continue with."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from biomamba.runtime.errors import CheckpointError, ConfigError
from biomamba.training.checkpoint_io import CheckpointRecord, DurableCheckpointIO
from biomamba.training.resume import (
    Start,
    changed_settings,
    find_start,
    is_finished,
    logger_options,
    read_record,
    run_settings,
    set_ledger_aside,
)

SETTINGS = {"seed": 1, "data": {"seq_len": 8}, "data_fingerprint": "a"}


def save(folder: Path, *steps: int, settings: dict[str, Any] | None = None) -> Path:
    """Save checkpoints and return the last one."""
    for step in steps:
        run = {"step": step, "reason": "test", "settings": settings or SETTINGS}
        path = folder / f"step_{step:07d}.ckpt"
        DurableCheckpointIO().save_checkpoint({"run": run}, path)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-1])
    return path


def test_auto_begins_in_an_empty_folder_and_else_takes_the_newest(tmp_path: Path) -> None:
    assert find_start("auto", tmp_path, SETTINGS) == Start()
    newest = save(tmp_path, 100, 9, 11_000_000)
    assert find_start("auto", tmp_path, SETTINGS) == Start(newest, 11_000_000)


def test_auto_takes_the_newest_good_one_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = save(tmp_path, 1, 2)
    cut(save(tmp_path, 3))
    CheckpointRecord.path_for(save(tmp_path, 4)).unlink()
    assert find_start("auto", tmp_path, SETTINGS) == Start(good, 2)
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("step_0000004.ckpt", "step_0000003.ckpt is damaged", f"taking {good} instead"):
        assert part in line


def test_a_run_without_a_good_checkpoint_is_not_begun_anew(tmp_path: Path) -> None:
    cut(save(tmp_path, 3))
    with pytest.raises(CheckpointError, match=r"no checkpoint .* is good: .*step_0000003.ckpt"):
        find_start("auto", tmp_path, SETTINGS)


def test_a_named_checkpoint_is_that_one_or_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    named = tmp_path / "step_0000002.ckpt"
    assert find_start(str(named), tmp_path, SETTINGS) == Start(named, 2)
    with pytest.raises(CheckpointError, match="damaged or cut"):
        find_start(str(cut(named)), tmp_path, SETTINGS)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        find_start(str(tmp_path / "step_0000004.ckpt"), tmp_path, SETTINGS)


def test_the_name_last_means_the_newest_good_one(tmp_path: Path) -> None:
    elsewhere = tmp_path / "new"
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_start(str(tmp_path / "last.ckpt"), elsewhere, SETTINGS)
    good = save(tmp_path, 1, 2)
    cut(save(tmp_path, 3))
    assert find_start(str(tmp_path / "last.ckpt"), elsewhere, SETTINGS) == Start(good, 2)


def test_a_folder_means_its_newest_good_checkpoint(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "new"
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"resume: .*run holds no checkpoint .step_"):
        find_start(str(run), elsewhere, SETTINGS)
    good = save(run / "checkpoints", 1, 2)
    cut(save(run / "checkpoints", 3))
    for named in (run, run / "checkpoints"):
        assert find_start(str(named), elsewhere, SETTINGS) == Start(good, 2)


def test_what_is_no_place_of_checkpoints_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(CheckpointError, match=r"folder of a model.*model\.checkpoint="):
        find_start(str(tmp_path), tmp_path / "new", SETTINGS)
    (tmp_path / "dangling").symlink_to("nowhere")
    save(tmp_path, 7)
    for name in ("dangling", "step_0000004.ckpt"):
        with pytest.raises(CheckpointError, match=rf"{name}: there is no .*; there: step_0000007"):
            find_start(str(tmp_path / name), tmp_path / "new", SETTINGS)


def test_null_never_writes_among_the_checkpoints_of_a_run(tmp_path: Path) -> None:
    assert find_start(None, tmp_path, SETTINGS) == Start()
    save(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"resume is null, but .* holds checkpoints"):
        find_start(None, tmp_path, SETTINGS)


def test_other_settings_are_refused_with_both_values_unless_allowed(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    other = SETTINGS | {"seed": 2}
    with pytest.raises(ConfigError, match=r"seed is 1, asked for 2; .*allow_change=true"):
        find_start("auto", tmp_path, other)
    start = find_start("auto", tmp_path, other, allow_change=True)
    assert start == Start(path, 1, "seed is 1, asked for 2")
    assert find_start("auto", tmp_path, SETTINGS, allow_change=True).changes == ""


def test_a_change_behind_an_older_checkpoint_needs_a_folder_of_its_own(tmp_path: Path) -> None:
    save(tmp_path / "a", 1, 2)
    path, other = str(tmp_path / "a" / "step_0000001.ckpt"), SETTINGS | {"seed": 2}
    with pytest.raises(ConfigError, match="holds a checkpoint of step 2"):
        find_start(path, tmp_path / "a", other, allow_change=True)
    assert find_start(path, tmp_path / "b", other, allow_change=True).step == 1


def test_other_words_for_the_same_data_are_no_change() -> None:
    other = SETTINGS | {"data": {"seq_len": "eight"}}
    assert changed_settings(SETTINGS, other) == ""
    found = changed_settings(SETTINGS, other | {"data_fingerprint": "b"})
    assert found == ("data.seq_len is 8, asked for 'eight'; data_fingerprint is 'a', asked for 'b'")


def config(**changes: Any) -> dict[str, Any]:
    """Return a resolved configuration with some leaves set by `a__b=value`."""
    tree: dict[str, Any] = {
        "seed": 1,
        "max_tokens": 64,
        "tokens_per_step": 8,
        "objective": {"max_grad_norm": 1.0},
        "optimizer": {"lr": 0.1, "betas": (0.9, 0.95)},
        "schedule": {"warmup_ratio": 0.1},
        "model": {"config": {"n_layer": 2}, "backend": {"_target_": "x"}},
        "trainer": {"precision": "32-true", "devices": 1},
        "data": {
            "sources": {"web": ["data/web"]},
            "num_workers": 0,
            "verify": "full",
            "mixture": {"weights": {"web": 1.0}},
            "budget": {"seq_len": 8, "micro_batch_size": 1},
        },
        "callbacks": {"ledger": None},
    }
    for key, value in changes.items():
        *path, name = key.split("__")
        node = tree
        for part in path:
            node = node[part]
        node[name] = value
    return tree


def settings_of(tree: dict[str, Any], fingerprint: str = "rows") -> dict[str, Any]:
    data: Any = SimpleNamespace(fingerprint=fingerprint, tokenizer_fingerprint="tokens")
    return run_settings(tree, data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2),
        ("max_tokens", 128),
        ("tokens_per_step", 16),
        ("objective__max_grad_norm", 2.0),
        ("optimizer__lr", 0.2),
        ("schedule__warmup_ratio", 0.0),
        ("model__config__n_layer", 3),
        ("trainer__precision", "bf16-mixed"),
    ],
)
def test_what_a_step_computes_is_decided(key: str, value: Any) -> None:
    found = changed_settings(settings_of(config()), settings_of(config(**{key: value})))
    assert found.startswith(f"{key.replace('__', '.')} is ")
    assert found.endswith(f"asked for {value!r}")


def test_the_average_of_the_weights_is_decided_but_not_its_folder() -> None:
    def with_ema(**options: Any) -> dict[str, Any]:
        return settings_of(config(callbacks={"ema": options}))

    assert changed_settings(with_ema(folder="a", decay=0.9), with_ema(folder="b", decay=0.9)) == ""
    found = changed_settings(with_ema(folder="a", decay=0.9), with_ema(folder="a", decay=0.99))
    assert found == "ema.decay is 0.9, asked for 0.99"
    assert changed_settings(settings_of(config()), with_ema(folder="a", decay=0.9))


def test_how_a_step_is_computed_is_not_decided() -> None:
    other = config(
        model__backend={"_target_": "y"},
        objective__loss_kernel="liger",
        trainer__devices=2,
        data__sources={"web": ["/elsewhere/web"]},
        data__num_workers=2,
        data__verify="size",
        data__budget={"seq_len": 8, "micro_batch_size": 4},
        callbacks=None,
    )
    # Not even where other rows are distinguished: these keys never explain them.
    found = changed_settings(settings_of(config()), settings_of(other, "others"))
    assert found == "data_fingerprint is 'rows', asked for 'others'"
    assert changed_settings(settings_of(config()), settings_of(other)) == ""


def test_another_tokenizer_or_store_is_another_run() -> None:
    mine: Any = SimpleNamespace(fingerprint="rows", tokenizer_fingerprint="tokens")
    other: Any = SimpleNamespace(fingerprint="others", tokenizer_fingerprint="letters")
    found = changed_settings(*(run_settings(config(), data) for data in (mine, other)))
    assert found == (
        "data_fingerprint is 'rows', asked for 'others'; "
        "tokenizer_fingerprint is 'tokens', asked for 'letters'"
    )


def test_other_rows_are_explained_by_the_keys_of_the_data() -> None:
    other = config(data__mixture={"weights": {"web": 0.5}})
    found = changed_settings(settings_of(config()), settings_of(other, "others"))
    assert found.startswith("data.mixture.weights.web is 1.0, asked for 0.5; data_fingerprint")


def test_settings_are_those_that_a_record_gives_back() -> None:
    settings = settings_of(config())
    assert json.loads(json.dumps(settings)) == settings
    assert settings["optimizer"]["betas"] == [0.9, 0.95]


def test_a_run_is_finished_when_its_record_is_closed_behind_the_last_step(tmp_path: Path) -> None:
    record, last = tmp_path / "run.json", Start(tmp_path / "x.ckpt", 8)
    assert not is_finished(Start(), 8, record)
    record.write_text("{}")
    assert not is_finished(last, 8, record)
    record.write_text('{"after": {}}')
    assert is_finished(last, 8, record)
    assert not is_finished(last, 9, record)
    assert not is_finished(Start(tmp_path / "x.ckpt", 4), 8, record)
    with pytest.raises(ConfigError, match="holds a finished run without checkpoints"):
        is_finished(Start(), 8, record)


def test_a_run_that_stopped_early_is_finished_at_that_step(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    record.write_text('{"after": {}, "selection": {"stopped_at_step": 4}}')
    assert is_finished(Start(tmp_path / "x.ckpt", 4), 8, record)
    assert not is_finished(Start(tmp_path / "x.ckpt", 3), 8, record)


def test_what_is_selected_and_when_is_decided_but_not_its_folder() -> None:
    def selecting(**options: Any) -> dict[str, Any]:
        selection = {"folder": "a", "monitor": "val/loss"} | options
        tree = config(callbacks={"selection": selection}, trainer__val_check_interval=5)
        return settings_of(tree)

    assert changed_settings(selecting(), selecting(folder="b")) == ""
    found = changed_settings(selecting(), selecting(patience=3))
    assert "selection.patience" in found
    assert "selection" not in settings_of(config())
    other = selecting()
    other["selection"]["val_check_interval"] = 6
    assert "val_check_interval is 5, asked for 6" in changed_settings(selecting(), other)


def test_the_length_that_epochs_make_is_decided() -> None:
    def of(steps: int) -> dict[str, Any]:
        budget = SimpleNamespace(max_tokens=8 * steps)
        data: Any = SimpleNamespace(
            fingerprint="rows", tokenizer_fingerprint="tokens", budget=budget
        )
        return run_settings(config(max_tokens=None), data)

    assert changed_settings(of(3), of(4)) == "max_tokens is 24, asked for 32"


@pytest.mark.parametrize("damage", ["cut", "folder"])
def test_a_record_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    record = tmp_path / "run.json"
    assert read_record(record) == {}
    if damage == "cut":
        record.write_text('{"starts": [')
    else:
        record.mkdir()
    with pytest.raises(ConfigError, match=r"run.json: cannot be read.*; fix it, or move it away"):
        is_finished(Start(), 8, record)


def test_curves_are_cut_behind_the_checkpoint() -> None:
    start = Start(Path("x.ckpt"), 8)
    tensorboard, csv = (f"lightning.pytorch.loggers.{n}Logger" for n in ("TensorBoard", "CSV"))
    assert logger_options(tensorboard, start) == {"purge_step": 9}
    assert logger_options(csv, start) == {"version": "from_step_0000008"}
    assert logger_options("other.Logger", start) == {}
    # A new run takes back all that an earlier start without a checkpoint has left.
    assert logger_options(tensorboard, Start()) == {"purge_step": 0}
    assert logger_options(csv, Start()) == {}


def test_the_ledger_of_other_data_is_kept_apart(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    set_ledger_aside(ledger, Start(Path("x.ckpt"), 8, "data_fingerprint is 'a', asked for 'b'"))
    ledger.mkdir()
    set_ledger_aside(ledger, Start(Path("x.ckpt"), 8, "seed is 1, asked for 2"))
    assert ledger.is_dir()
    set_ledger_aside(ledger, Start(Path("x.ckpt"), 8, "data_fingerprint is 'a', asked for 'b'"))
    assert [path.name for path in tmp_path.iterdir()] == ["ledger_to_step_0000008"]
