"""Targets and their arguments."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from biomamba.config.safety import (
    GROUPS,
    TargetError,
    call_problems,
    check_target_name,
    conf_dir,
    current_name,
    load_target,
    parameter_names,
    with_current_names,
)
from biomamba.data.corpora.table import C4

YAML_FILES = sorted(conf_dir().rglob("*.yaml"))
# Every `_target_` of the configuration files of commit 65907d0.
EARLIER_TARGETS = Path(__file__).parents[1] / "fixtures" / "earlier" / "targets.txt"


class Guidelines:
    """Offers what a corpus offers."""

    def shards(self) -> Sequence[Any]:
        return ()

    def documents(self, shard: object) -> Iterator[Any]:
        return iter(())

    def settings(self) -> dict[str, Any]:
        return {}


class Cleaner:
    """Fulfills no contract."""


def make() -> None:
    """Is a function."""


def targets_in(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the key and the name of every `_target_` of a file."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node["_target_"]
        for name, child in node.items():
            yield from targets_in(child, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list):
        for child in node:
            yield from targets_in(child, key)


def package_of(path: Path, text: str) -> str:
    """Return the key that a file of conf/ fills."""
    header = next((line for line in text.splitlines()[:3] if line.startswith("# @package")), "")
    package = header.removeprefix("# @package").strip()
    folder = path.parent.relative_to(conf_dir()).as_posix().replace("/", ".")
    return {"_global_": "", "": "" if folder == "." else folder}.get(package, package)


def test_every_class_that_the_shipped_files_name_is_allowed_and_none_else_is_listed() -> None:
    found = set()
    for path in YAML_FILES:
        text = path.read_text(encoding="utf-8")
        for key, name in targets_in(yaml.safe_load(text), package_of(path, text)):
            load_target(name, key)
            found.add(name)

    named = {name for content in GROUPS.values() for name in content.names}
    own = {name for name in named if name.startswith("biomamba.") and "stand_in" not in name}
    assert own <= found | {"biomamba.data.mixture.Stage"}


def test_every_name_of_the_table_can_be_loaded() -> None:
    for group, content in GROUPS.items():
        for name in content.names:
            assert callable(load_target(name, group))


def test_every_name_that_version_0_1_wrote_is_that_of_a_class_today() -> None:
    names = EARLIER_TARGETS.read_text(encoding="utf-8").split()
    assert {load_target(name).__name__ for name in names} == {n.split(".")[-1] for n in names}


def test_moved_classes_are_named_as_now_wherever_they_stand() -> None:
    old, new = "biomamba.data.corpora.c4.C4", "biomamba.data.corpora.table.C4"
    settings = {"_target_": old, "text": old, "parts": [{"rows": {"_target_": old, "n": None}}]}

    assert with_current_names(settings) == {
        "_target_": new,
        "text": old,
        "parts": [{"rows": {"_target_": new, "n": None}}],
    }
    assert check_target_name(old, "corpora.web") == new
    for name in (new, "data.corpora.c4.C4", "lightning.pytorch.Trainer", "C4", ""):
        assert current_name(name) == name


def test_class_of_an_open_package_is_loaded() -> None:
    assert load_target("biomamba.data.corpora.table.C4", "corpora.web") is C4


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("os.system", "model"),
        ("torch.load", "model"),
        ("torch.optim.AdamW", "optimizer"),
        ("lightning.fabric.utilities.cloud_io._load", "trainer"),
        ("lightning.pytorch.Trainer", "model"),
        ("biomamba.runtime.provenance._git", "tasks.x"),
        ("biomamba.runtime.files.write_bytes", "corpora.x"),
        ("biomamba.data.corpora.table.C4", "model"),
        ("biomamba.data.corpora.table.C4", "trainer.c4"),
        ("biomamba.data.corpora.table.C4", "paths"),
        ("biomamba.data.corpora.table.C4", "sources.c4"),
        ("biomamba.data.corpora.table.sys.exit", "corpora.x"),
        ("biomamba.data.corpora.medline.Path", "corpora.x"),  # imported there
        ("biomamba.data.corpora.table.C4.shards", "corpora.x"),
        ("biomamba.data.corpora.table.C4.__init__", "corpora.x"),
        ("biomamba.data.corpora..c4.C4", "corpora.x"),
        ("biomamba.data.corpora.corpus.Corpus", "corpora.x"),  # the contract itself
        ("biomamba.tasks.task.Task", "tasks.x"),  # abstract
        ("biomamba.tasks.task.named_files", "tasks.x"),  # a function
        ("biomamba.training.callbacks.checkpoint.checkpoints_in", "callbacks.x"),
        ("biomambax.Thing", "model"),
        ("biomamba.data.prepare.staging.StageWriter", "data"),
        ("biomamba.data.prepare.staging.StageWriter", ""),
        ("", "model"),
        (None, "model"),
        (3, "model"),
        (["os.system"], "model"),
    ],
)
def test_other_targets_are_refused(name: object, key: str) -> None:
    with pytest.raises(TargetError, match=r"_target_|cannot import"):
        load_target(name, key)


def test_name_outside_the_list_is_refused_before_it_is_imported() -> None:
    sys.modules.pop("antigravity", None)
    with pytest.raises(TargetError):
        load_target("antigravity.geohash", "model")
    with pytest.raises(TargetError):
        check_target_name("biomamba.tasks.new._hidden", "tasks.x")
    assert check_target_name("biomamba.tasks.new.Triage", "tasks.x") == "biomamba.tasks.new.Triage"
    assert "antigravity" not in sys.modules


def test_class_of_a_new_file_needs_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("biomamba.data.corpora.guidelines")
    for item in (Guidelines, Cleaner, make):
        monkeypatch.setattr(item, "__module__", module.__name__)
        setattr(module, item.__name__, item)
    monkeypatch.setitem(sys.modules, module.__name__, module)

    assert load_target(f"{module.__name__}.Guidelines", "corpora.x") is Guidelines
    for name in ("Cleaner", "make"):
        with pytest.raises(TargetError):
            load_target(f"{module.__name__}.{name}", "corpora.x")


def test_misspelled_target_is_named() -> None:
    with pytest.raises(TargetError, match=r"cannot import biomamba\.data\.corpora\.table\.C5"):
        load_target("biomamba.data.corpora.table.C5", "corpora.x")
    with pytest.raises(TargetError, match=r"did you mean biomamba\.training\.optimizer\.AdamW"):
        load_target("biomamba.training.optimizer.AdamWW", "optimizer")


def test_unknown_missing_and_mistyped_arguments_are_all_found(stand_in: ModuleType) -> None:
    node = {"_target_": "biomamba.stand_in.Budget", "step_tokens": 1.5, "max_token": 3}

    problems = list(call_problems(stand_in.Budget, node))

    assert problems == [
        "unknown key 'max_token' (did you mean 'max_tokens'?); accepted: max_tokens, step_tokens "
        "(parameters of biomamba.stand_in.Budget)",
        "key 'max_tokens' is missing; biomamba.stand_in.Budget needs it",
        "key 'step_tokens' must be int, found float 1.5",
    ]


def test_target_with_open_keywords_takes_any_key(stand_in: ModuleType) -> None:
    assert list(call_problems(stand_in.make, {"_target_": "biomamba.stand_in.make", "x": 1})) == []


def test_parameter_names_of_a_node() -> None:
    assert parameter_names({"_target_": "biomamba.stand_in.Budget"}) == [
        "max_tokens",
        "step_tokens",
    ]
    assert parameter_names({"_target_": "os.system"}) == []
    assert parameter_names({}) == []
