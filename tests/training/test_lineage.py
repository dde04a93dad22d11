"""The runs behind a model, and which of their data may not be shared."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from biomamba.data.store.format import FORMAT_VERSION, Manifest, StoreFacts, Totals
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import make_private
from biomamba.training.lineage import (
    SplitFiles,
    find_lineage,
    keep_private,
    restrictions_in,
    restrictions_of,
)

PHYSIONET = "PhysioNet Credentialed Health Data License 1.5.0: never upload or share"
CC0 = "CC0"


def facts(licence: str = CC0) -> dict[str, Any]:
    return StoreFacts(
        corpus="notes",
        domain="clinical",
        licence=licence,
        documents=3,
        tokens=30,
        bytes=90,
        dataset=None,
        revision=None,
        benchmarks=None,
        rejects={},
    ).as_record()


def write_run(
    folder: Path, data: dict[str, Any] | None = None, settings: dict[str, Any] | None = None
) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    record = {} if data is None else {"data": data}
    (folder / "run.json").write_text(json.dumps(record))
    if settings is not None:
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def write_store(folder: Path) -> Path:
    """Write the manifest of a store; its token files are never asked for."""
    totals = {"train": Totals(3, 30, 90), "val": Totals(), "test": Totals()}
    folder.mkdir(parents=True)
    Manifest(
        format_version=FORMAT_VERSION,
        corpus="notes",
        domain="clinical",
        licence=CC0,
        tokenizer="",
        vocab_size=257,
        eod_id=0,
        dtype="<u2",
        split={},
        settings={},
        cleaning={},
        code={},
        shards=[],
        totals=totals,
        rejects={},
        files={},
    ).write(folder)
    return folder


def began_with(checkpoint: str | None) -> dict[str, Any]:
    return {"model": {"checkpoint": checkpoint}}


OPEN = {"stores": {"text": [facts()]}}


def test_runs_are_followed_to_the_published_weights(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "cpt", OPEN, began_with("state-spaces/mamba2-130m"))
    sft = write_run(tmp_path / "runs" / "sft", {"tasks": {}}, began_with("runs/cpt/model"))
    for place in (sft, sft / "model", sft / "checkpoints"):
        found = find_lineage(str(place))

        assert [run.name for run in found.runs] == ["sft", "cpt"]
        assert found.base_model == "state-spaces/mamba2-130m"
        assert found.runs[1].stores == {"text": [StoreFacts(**facts())]}
        assert found.restrictions() == found.unknown() == []


def test_what_a_run_from_nothing_began_with(tmp_path: Path) -> None:
    found = find_lineage(str(write_run(tmp_path / "x", OPEN, began_with(None))))

    assert (found.base_model, found.origin) == (None, "random weights")


def test_a_model_of_the_hub_is_its_own_base() -> None:
    found = find_lineage(f"owner/name@{'a' * 40}")

    assert (found.runs, found.base_model) == ((), "owner/name")


def test_a_folder_without_a_run_has_no_known_past(tmp_path: Path) -> None:
    found = find_lineage(str(tmp_path))

    assert (found.runs, found.base_model) == ((), None)
    assert "not known" in found.origin


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        ({"tasks": {"notes": {"access": "restricted"}}}, {}),
        ({"stores": {"text": [facts(PHYSIONET)]}}, {}),
        ({"tasks": {}}, {"tasks": {"notes": {"access": "restricted"}}}),
        ({"tasks": {}}, {"data": {"tasks": {"n": {"notes": {"licence": PHYSIONET}}}}}),
    ],
)
def test_restricted_data_of_an_earlier_run_restricts_the_last(
    tmp_path: Path, data: dict[str, Any], settings: dict[str, Any]
) -> None:
    write_run(tmp_path / "runs" / "cpt", data, began_with(None) | settings)
    sft = write_run(tmp_path / "runs" / "sft", OPEN, began_with("runs/cpt/model"))

    (found,) = find_lineage(str(sft)).restrictions()
    assert "(run cpt)" in found


def test_an_export_keeps_its_restrictions(tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(json.dumps({"restricted": ["corpus notes"]}))

    assert find_lineage(str(tmp_path)).restrictions() == ["corpus notes"]


def test_stores_of_an_older_record_are_read_from_their_place(
    tmp_path: Path,
) -> None:
    store = write_store(tmp_path / "data" / "a")
    name = str(store.relative_to(tmp_path))
    settings = began_with(None) | {"data": {"sources": {"text": [name]}}}
    run = write_run(tmp_path / "runs" / "x", None, settings)

    found = find_lineage(str(run))
    assert found.unknown() == []
    assert found.runs[0].stores == {"text": [StoreFacts.read(store)]}


@pytest.mark.parametrize("fault", ["missing", "others", "no settings"])
def test_terms_that_cannot_be_read_are_said_to_be_unknown(tmp_path: Path, fault: str) -> None:
    store = write_store(tmp_path / "data" / "a")
    name = "data/none" if fault == "missing" else str(store)
    settings = began_with(None) | {"data": {"sources": {"text": [name]}}}
    run = write_run(tmp_path / "runs" / "x", None, None if fault == "no settings" else settings)
    if fault == "others":
        (run / "run.json").write_text(json.dumps({"sources": {"text": {"num_documents": 1}}}))

    found = find_lineage(str(run))
    assert len(found.unknown()) == 1
    assert not found.runs[0].stores


def test_a_damaged_record_and_a_circle_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "x", OPEN, began_with("runs/x/model"))
    with pytest.raises(DataError, match="started with its own model"):
        find_lineage(str(run))
    (run / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json: cannot be read"):
        find_lineage(str(run))


def test_a_run_may_not_show_texts_of_what_it_or_an_earlier_run_has_read(tmp_path: Path) -> None:
    earlier = write_run(tmp_path / "earlier", {"stores": {"notes": [facts(PHYSIONET)]}}, {})
    fresh: dict[str, Any] = {"model": {"checkpoint": None}}
    open_data = {"stores": {"web": [facts()]}}
    assert restrictions_of(fresh, open_data) == []
    assert restrictions_of(fresh, {"stores": {"notes": [facts(PHYSIONET)]}}) == [
        f"corpus notes is under {PHYSIONET!r}"
    ]
    tasks = {"tasks": {"summary": {"access": "restricted"}}}
    assert restrictions_of(fresh, tasks) == ["task summary has access: restricted"]
    streamed = fresh | {"corpora": {"notes": {"licence": PHYSIONET}}}
    assert restrictions_of(streamed, {}) == [f"corpora.notes is under {PHYSIONET!r}"]
    begun = {"model": {"checkpoint": str(earlier / "model")}}
    told = [f"corpus notes is under {PHYSIONET!r} (run earlier)"]
    assert restrictions_of(begun, open_data) == told
    assert restrictions_of(fresh, open_data, earlier / "checkpoints") == told
    assert restrictions_of({"model": {"checkpoint": "a/hub-id"}}, open_data) == []
    unknown = write_run(tmp_path / "unknown", {}, {})
    begun = {"model": {"checkpoint": str(unknown / "model")}}
    assert "whether it may be shared is not known" in restrictions_of(begun, open_data)[0]


RESTRICTED_TASK = {"tasks": {"notes": {"access": "restricted"}}}


def test_settings_are_restricted_by_whatever_they_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", settings=RESTRICTED_TASK)
    later = write_run(tmp_path / "b", settings={"model": {"checkpoint": str(run / "model")}})
    fine = write_run(tmp_path / "c", data={"stores": {"x": [facts()]}}, settings={"seed": 1})
    learned = write_run(tmp_path / "d", data={"stores": {"x": [facts(PHYSIONET)]}})
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / "export.json").write_text(json.dumps({"restricted": ["notes"]}))
    cases: dict[str, Any] = {
        "checkpoint": str(later / "model"),
        "resume": str(run / "checkpoints"),
        "runs": [str(fine), str(later)],
        "baseline": str(learned),
        "model": {"checkpoint": str(exported)},
        "corpora": {"notes": {"licence": PHYSIONET}},
    }
    for key, value in cases.items():
        assert restrictions_in({"seed": 1, key: value}), key
    assert (
        restrictions_in(
            {"checkpoint": str(fine / "model"), "none": None, "text": "a\nb", "long": ["~" * 900]}
        )
        == []
    )


def test_what_a_run_recorded_holds_when_its_sources_are_gone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", settings={"model": {"checkpoint": "gone/model"}})
    assert restrictions_in({"checkpoint": str(run)}) == []
    (run / "run.json").write_text(json.dumps({"restricted": ["task notes"]}))
    assert restrictions_in({"checkpoint": str(run)}) == ["task notes"]


def test_files_are_private_with_restricted_settings_alone(tmp_path: Path) -> None:
    old, link = tmp_path / "run" / "old.txt", tmp_path / "run" / "link"
    outside = tmp_path / "outside"
    earlier = os.umask(0o022)
    try:
        old.parent.mkdir()
        for path in (old, outside):
            path.touch()
        link.symlink_to(outside)
        assert keep_private({"seed": 1}, old.parent) == []
        (old.parent / "open").touch()
        assert keep_private(RESTRICTED_TASK, old.parent) == ["tasks.notes has access: restricted"]
        new = tmp_path / "run" / "folder" / "new.txt"
        new.parent.mkdir()
        new.touch()
    finally:
        os.umask(earlier)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (old.parent, *old.parent.rglob("*"))}
    assert modes == {
        "run": 0o700,
        "old.txt": 0o600,
        "open": 0o600,
        "folder": 0o700,
        "new.txt": 0o600,
        "link": 0o644,
    }


def test_a_folder_above_the_current_one_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    make_private(Path())
    assert tmp_path.stat().st_mode & 0o777 == 0o755


TEST_FILE = "7" * 64
OTHER_FILE = "8" * 64
TESTED = SplitFiles("test", {"12B3_golden.json": TEST_FILE})


def filtered_by(*digests: str) -> dict[str, Any]:
    files = {f"bioasq/{n}.json": f"sha256:{digest}" for n, digest in enumerate(digests)}
    named = {"bioasq": {}} if digests else None
    return facts() | {"benchmarks": named, "benchmark_files": files}


def status_of(run: Path, tested: SplitFiles = TESTED) -> str:
    return find_lineage(str(run)).filter_status(tested).status


def learned_from(split: str, *digests: str, rule: str = "") -> dict[str, Any]:
    files = {f"{n}.json": digest for n, digest in enumerate(digests)}
    return {"tasks": {"qa": {"kept_apart": {split: {"files": files, "rule": rule}}}}}


def old_facts() -> dict[str, Any]:
    return {name: value for name, value in facts().items() if name != "benchmark_files"}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ({"stores": {"text": [filtered_by(TEST_FILE, OTHER_FILE)]}}, "filtered"),
        ({"stores": {"text": [filtered_by(OTHER_FILE)]}}, "not filtered"),
        ({"stores": {"text": [filtered_by()]}}, "not filtered"),
        # One of two corpora is enough to see a test.
        ({"stores": {"a": [filtered_by(TEST_FILE)], "b": [filtered_by()]}}, "not filtered"),
        # Records of earlier versions name benchmarks, not files; or say that there were none.
        ({"stores": {"text": [old_facts() | {"benchmarks": {"bioasq": {}}}]}}, "unknown"),
        ({"stores": {"text": [old_facts()]}}, "not filtered"),
        ({"streamed": {"benchmark_files": {"b/t.json": f"sha256:{TEST_FILE}"}}}, "filtered"),
        ({"streamed": {"benchmark_files": {}}}, "not filtered"),
        (learned_from("test", TEST_FILE), "filtered"),
        (learned_from("test", OTHER_FILE), "not filtered"),
        (learned_from("val", TEST_FILE), "not filtered"),
        (learned_from("test", TEST_FILE, rule="another split"), "not filtered"),
        ({"tasks": {"qa": {}}}, "unknown"),
    ],
)
def test_a_test_is_filtered_if_its_files_were_kept_out_of_all_training_data(
    tmp_path: Path, data: dict[str, Any], status: str
) -> None:
    corpora = {"data": {"sources": {"a": ["a"]}, "corpora": {"a": {}}}}
    settings = began_with(None) | (corpora if "streamed" in data else {})
    assert status_of(write_run(tmp_path / "run", data, settings)) == status


def test_all_files_of_a_test_must_have_been_kept_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"stores": {"a": [filtered_by(TEST_FILE)]}}, began_with(None))

    assert status_of(run, SplitFiles("test", {"a": TEST_FILE, "b": OTHER_FILE})) == "not filtered"
    assert status_of(run, SplitFiles("val", {"a": TEST_FILE})) == "filtered"


def test_a_chain_is_as_clean_as_the_worst_of_its_runs(tmp_path: Path) -> None:
    for name, digest, status in (("clean", TEST_FILE, "filtered"), ("other", OTHER_FILE, "not ")):
        data = {"stores": {"text": [filtered_by(digest)]}}
        first = write_run(tmp_path / name / "cpt", data, began_with(None))
        tuned = began_with(str(first / "model"))
        second = write_run(tmp_path / name / "sft", learned_from("test", TEST_FILE), tuned)

        assert status_of(second / "model").startswith(status)


def test_what_published_weights_have_seen_is_unknown(tmp_path: Path) -> None:
    hub = began_with("state-spaces/mamba2-130m")
    clean = write_run(tmp_path / "a", {"stores": {"t": [filtered_by(TEST_FILE)]}}, hub)
    other = write_run(tmp_path / "b", {"stores": {"t": [filtered_by(OTHER_FILE)]}}, hub)

    found = find_lineage(str(clean)).filter_status(TESTED)

    assert found.status == "unknown"
    assert found.reasons == (
        "the published weights state-spaces/mamba2-130m: unknown",
        "corpus notes of run a: filtered",
    )
    assert status_of(other) == "not filtered"
    assert status_of(Path("state-spaces/mamba2-130m")) == "unknown"
    assert status_of(tmp_path) == "unknown"


def test_an_export_keeps_what_was_filtered(tmp_path: Path) -> None:
    data = {"stores": {"text": [filtered_by(TEST_FILE)]}}
    record = find_lineage(str(write_run(tmp_path / "run", data, began_with(None)))).filter_record()
    exported = tmp_path / "elsewhere"
    exported.mkdir()
    (exported / "export.json").write_text(json.dumps({"restricted": [], **record}))
    tuned = write_run(tmp_path / "sft", learned_from("test", TEST_FILE), began_with(str(exported)))

    assert status_of(exported) == status_of(tuned) == "filtered"
    (exported / "export.json").write_text(json.dumps({"restricted": []}))
    assert status_of(exported) == status_of(tuned) == "unknown"
    (exported / "export.json").write_text(json.dumps({"data_filters": [{"odd": 1}]}))
    with pytest.raises(DataError, match=r"export\.json is damaged"):
        find_lineage(str(exported))
