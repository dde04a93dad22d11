"""What training runs were told, apart from their seed."""

from pathlib import Path

import pytest

from biomamba.config.run_settings import recipe_but_tokens, recipe_of, settings_of
from biomamba.runtime.errors import DataError

SETTINGS = """\
name: cpt
run_id: ${now:%Y-%m-%d}
seed: 1
paths: {run_dir: runs/a}
data:
  seed: ${seed}
optimizer: {lr: 0.001}
resume: auto
allow_change: false
"""


def write_run(folder: Path, settings: str = SETTINGS) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(settings)
    return folder / "model"


def test_runs_that_differ_in_seed_and_place_are_one_recipe(tmp_path: Path) -> None:
    one = recipe_of(write_run(tmp_path / "a"))
    changed = SETTINGS.replace("seed: 1", "seed: 2").replace("runs/a", "runs/b")
    changed = changed.replace("name: cpt", "name: x").replace("resume: auto", "resume: null")
    other = recipe_of(write_run(tmp_path / "b", changed))
    assert one is not None
    assert other is not None
    assert (one.fingerprint, one.seed, other.seed) == (other.fingerprint, 1, 2)
    assert other.run == tmp_path / "b"


@pytest.mark.parametrize(
    ("old", "new"), [("0.001", "0.002"), ("seed: ${seed}", "seed: 7"), ("data:", "texts:")]
)
def test_another_setting_is_another_recipe(tmp_path: Path, old: str, new: str) -> None:
    one = recipe_of(write_run(tmp_path / "a"))
    other = recipe_of(write_run(tmp_path / "b", SETTINGS.replace(old, new)))
    assert one is not None
    assert other is not None
    assert one.fingerprint != other.fingerprint


def test_averaged_weights_are_another_model(tmp_path: Path) -> None:
    model = write_run(tmp_path / "a")
    one, other = recipe_of(model), recipe_of(model.with_name("model_ema"))
    assert one is not None
    assert other is not None
    assert one.fingerprint != other.fingerprint


def test_a_public_checkpoint_has_no_recipe(tmp_path: Path) -> None:
    assert recipe_of(Path("state-spaces/mamba2-130m")) is None
    assert recipe_of(tmp_path / "model") is None


@pytest.mark.parametrize("text", ["- a list", "name: x", "a: [", "seed: one"])
def test_what_is_no_settings_of_a_run_is_named(tmp_path: Path, text: str) -> None:
    model = write_run(tmp_path / "a", text)
    with pytest.raises(DataError, match=r"config\.yaml: (cannot be read|not the settings of a)"):
        recipe_of(model)


def test_runs_of_a_ladder_differ_in_tokens_and_seeds_only(tmp_path: Path) -> None:
    settings = SETTINGS + "max_tokens: 1_000\nschedule: {total_tokens: '${max_tokens}'}\n"
    one = recipe_but_tokens(write_run(tmp_path / "a", settings))
    assert one is not None
    assert recipe_but_tokens(write_run(tmp_path / "b", settings.replace("1_000", "2_000"))) == one
    assert (
        recipe_but_tokens(write_run(tmp_path / "c", settings.replace("seed: 1", "seed: 2"))) == one
    )
    assert recipe_but_tokens(write_run(tmp_path / "d", settings.replace("0.001", "0.002"))) != one
    assert recipe_but_tokens(tmp_path / "none" / "model") is None


def test_settings_are_as_written(tmp_path: Path) -> None:
    found = settings_of(write_run(tmp_path / "a").parent)
    assert found is not None
    assert found["data"] == {"seed": "${seed}"}
    assert settings_of(tmp_path) is None
