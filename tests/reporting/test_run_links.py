"""Which run wrote the weights of an evaluation."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from biomamba.evaluation.stored_run import StoredModel
from biomamba.reporting.inputs import TrainingRun, read_training_run
from biomamba.reporting.scores import is_end, link_runs, relinked

WriteRun = Callable[..., Path]
WEIGHTS = b"weights"
SHA256 = sha256(WEIGHTS).hexdigest()


def _run(write_run: WriteRun, folder: Path, weights: bytes | None = WEIGHTS) -> TrainingRun:
    write_run(folder)
    if weights is not None:
        (folder / "model").mkdir()
        (folder / "model" / "model.safetensors").write_bytes(weights)
    return read_training_run(folder.name, folder)


def test_a_run_is_found_by_the_end_of_its_path(write_run: WriteRun, tmp_path: Path) -> None:
    one = _run(write_run, tmp_path / "runs" / "mix" / "seed_1", None)
    _run(write_run, tmp_path / "runs" / "mix" / "seed_2", None)
    for path in ("runs/mix/seed_1/model", "/elsewhere/runs/mix/seed_1/model"):
        model = StoredModel("model", SHA256, path)
        links = link_runs([model], [one])
        assert links.runs == {SHA256: one}
        assert relinked(model, links).path == str(one.folder / "model")


def test_a_renamed_run_is_found_by_its_weights(write_run: WriteRun, tmp_path: Path) -> None:
    run = _run(write_run, tmp_path / "new_name")
    assert link_runs([StoredModel("m", SHA256, "old/name/model")], [run]).runs == {SHA256: run}
    assert not link_runs([StoredModel("m", "0" * 64, "old/name/model")], [run]).runs


def test_weights_that_changed_since_are_told(write_run: WriteRun, tmp_path: Path) -> None:
    run = _run(write_run, tmp_path / "mix", b"trained anew")
    links = link_runs([StoredModel("m", SHA256, str(run.folder / "model"))], [run])
    assert not links.runs
    assert "are not those that were evaluated" in links.notes[0]


def test_ends_of_paths(tmp_path: Path) -> None:
    assert is_end(Path("runs/a"), tmp_path / "runs" / "a")
    assert is_end(Path("/x/runs/a"), tmp_path / "runs" / "a")
    assert not is_end(Path("/x/other/a"), tmp_path / "runs" / "a")
    assert not is_end(Path("a/runs"), tmp_path / "runs" / "a")
