"""Launch and precision checks."""

import logging
import warnings

import pytest
import torch

from biomamba.runtime.errors import ConfigError
from biomamba.training.launch import (
    check_launch,
    check_precision,
    check_run_folder,
    check_tasks,
    check_trainer_keys,
    product_dtype_of,
    quiet_lightning,
)


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "SLURM_NTASKS", "SLURM_STEP_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def test_one_process_for_one_device_is_fine() -> None:
    check_launch(1, 1)


def test_as_many_processes_as_devices_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "16")
    check_launch(8, 2)


def test_missing_launcher_is_named_with_its_command() -> None:
    with pytest.raises(ConfigError, match=r"8 x 1 = 8, but 1 process.*--nproc-per-node 8"):
        check_launch(8, 1)


def test_slurm_tasks_without_srun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "8")
    with pytest.raises(ConfigError, match=r"SLURM_NTASKS is 8, but .* neither srun nor"):
        check_launch(8, 1)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    check_launch(8, 1)


def test_devices_must_be_a_number() -> None:
    with pytest.raises(ConfigError, match="got 'auto'"):
        check_launch("auto", 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_precisions_with_fp32_weights_are_allowed(precision: str) -> None:
    check_precision(precision)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_other_precisions_are_refused(precision: str) -> None:
    with pytest.raises(ConfigError, match=f"got '{precision}', allowed are 32-true"):
        check_precision(precision)


def test_several_processes_need_a_named_run_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    check_run_folder([])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes need the same run folder"):
        check_run_folder(["seed=2"])
    check_run_folder(["run_id=first"])
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    check_run_folder([])


def test_tasks_need_data_that_learns_them() -> None:
    check_tasks([], ["sources"])
    check_tasks(["pubmedqa"], ["tasks", "budget"])
    with pytest.raises(ConfigError, match=r"task: pubmedqa chosen, .*add data=instruct"):
        check_tasks(["pubmedqa"], ["sources", "budget"])


def test_only_the_named_hints_are_silenced() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quiet_lightning()
        warnings.warn("The 'train_dataloader' does not have many workers which", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["something else"]
    assert not logging.getLogger("lightning.pytorch").isEnabledFor(logging.INFO)


def test_trainer_keys_that_are_set_elsewhere_are_all_named() -> None:
    check_trainer_keys({"devices": 1, "precision": "32-true", "max_epochs": 1})
    message = r"trainer\.max_steps \(use max_tokens\), trainer\.gradient_clip_val \(use objective"
    with pytest.raises(ConfigError, match=message):
        check_trainer_keys({"max_steps": 5, "devices": 1, "gradient_clip_val": 1.0})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_time", "00:00:00:01"),
        ("min_steps", 1),
        ("limit_train_batches", 2),
        ("limit_val_batches", 2),
        ("overfit_batches", 1),
        ("fast_dev_run", True),
        ("max_epochs", 0),
        ("max_epochs", 2),
        ("num_sanity_val_steps", 2),
        ("check_val_every_n_epoch", 1),
        ("val_check_interval", 0.5),
        ("val_check_interval", 0),
        ("val_check_interval", True),
        ("use_distributed_sampler", True),
    ],
)
def test_trainer_keys_that_would_end_a_run_early_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.{key}"):
        check_trainer_keys({"devices": 1, key: value})


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)],
)
def test_products_run_in_the_dtype_of_the_precision(precision: str, dtype: torch.dtype) -> None:
    assert product_dtype_of(precision) == dtype
