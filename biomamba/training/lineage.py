"""The runs that made a model: its own, the one of the checkpoint it started with, and so on."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from biomamba.config.annotations import build_record
from biomamba.config.run_settings import plain_parts, run_settings_in, stored_config
from biomamba.data.store.format import MANIFEST_NAME, Manifest, StoreFacts
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import make_private, write_privately
from biomamba.runtime.input_files import TEXT, Each, Shape, read_json, read_run_record
from biomamba.runtime.ranks import is_rank_zero

RUN_RECORD = "run.json"
EXPORT_RECORD = "export.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[0-9a-f]{40})?")
_CREDENTIALED = "physionet"
_LONGEST_NAME = 1_024


# What an export record is read for.
_EXPORT: Shape = {
    "restricted": Each(TEXT, is_list=True),
    "data_filters": Each(
        {
            "data": TEXT,
            "files": Each(TEXT, is_list=True),
            "kept_apart": Each(
                {"split": TEXT, "rule": TEXT, "files": Each(TEXT, is_list=True)}, is_list=True
            ),
        },
        is_list=True,
    ),
}
FILTERED, NOT_FILTERED, UNKNOWN = "filtered", "not filtered", "unknown"


@dataclass(frozen=True)
class DataFilter:
    """A part of the training data of a model, and what was kept out of it.

    Attributes:
        data: What was trained on, in words.
        files: sha256 of the files whose items were kept out; None if that is not known.
        kept_apart: Of data of tasks: the files of each split that was held out, with the rule that
            chose its items among those of the files. Each a mapping of split, files and rule.
    """

    data: str
    files: Sequence[str] | None
    kept_apart: Sequence[Mapping[str, Any]] = ()

    def status(self, split: "SplitFiles") -> str:
        """Return FILTERED, NOT_FILTERED or UNKNOWN."""
        if self.files is None:
            return UNKNOWN
        wanted = set(split.files.values())
        if wanted <= set(self.files):
            return FILTERED
        is_kept_apart = any(
            (part["split"], part["rule"]) == (split.split, split.rule)
            and wanted <= set(part["files"])
            for part in self.kept_apart
        )
        return FILTERED if is_kept_apart else NOT_FILTERED


@dataclass(frozen=True)
class SplitFiles:
    """The files that hold the items of an evaluated split.

    Attributes:
        split: `test` or `val`.
        files: sha256 by name.
        rule: What else decides which items of the files are in the split; see Task.split_rule.
    """

    split: str
    files: Mapping[str, str]
    rule: str = ""


@dataclass(frozen=True)
class FilterStatus:
    """Whether the items of a test were kept out of the training data of a model.

    Attributes:
        status: FILTERED: out of all of it; NOT_FILTERED: a part of it was not compared with these
            files; UNKNOWN: nothing is known of a part of it, and no other part is NOT_FILTERED.
        reasons: A line for each part that is not FILTERED, and for what came before the first run.
    """

    status: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainedRun:
    """One training run.

    Attributes:
        name: Of its folder.
        record: Its run.json.
        settings: What it was told; empty if its folder does not keep that.
        stores: Facts of the corpora of each source; empty if it read none, or if none is known.
        unknown: Training data about which nothing could be read, in words.
    """

    name: str
    record: Mapping[str, Any]
    settings: Mapping[str, Any]
    stores: Mapping[str, list[StoreFacts]]
    unknown: tuple[str, ...]

    @property
    def tasks(self) -> Mapping[str, Mapping[str, Any]]:
        """What it learned of each task, if it was fine-tuned."""
        found: Mapping[str, Mapping[str, Any]] = self.record.get("data", {}).get("tasks", {})
        return found

    def data_filters(self) -> Iterator[DataFilter]:
        """Iterate over the parts of its data with what was kept out of each."""
        for pool in self.stores.values():
            for facts in pool:
                files = None if facts.benchmark_files is None else _digests(facts.benchmark_files)
                if files is None and facts.benchmarks is None:
                    files = []  # a record of an earlier version, which says that nothing was
                yield DataFilter(f"corpus {facts.corpus} of run {self.name}", files)
        for what in self.unknown:
            yield DataFilter(f"{what} (run {self.name})", None)
        data = self.record.get("data", {})
        if "streamed" in data or self.settings.get("data", {}).get("corpora"):
            kept_out = data.get("streamed", {}).get("benchmark_files")
            if kept_out is None and not _benchmarks_in(self.settings):
                kept_out = {}
            files = None if kept_out is None else _digests(kept_out)
            yield DataFilter(f"corpora read by run {self.name}", files)
        if self.tasks:
            yield self._task_filter()

    def _task_filter(self) -> DataFilter:
        parts = [
            {
                "split": split,
                "rule": part.get("rule", ""),
                "files": _digests(part.get("files", {})),
            }
            for task in self.tasks.values()
            for split, part in task.get("kept_apart", {}).items()
        ]
        is_known = all("kept_apart" in task for task in self.tasks.values())
        names = ", ".join(self.tasks)
        return DataFilter(f"tasks {names} of run {self.name}", [] if is_known else None, parts)

    def restrictions(self) -> Iterator[str]:
        """Say which of its data may not be shared, and why."""
        for name, task in self.tasks.items():
            if task.get("access") == "restricted":
                yield f"task {name} has access: restricted"
        for facts in (facts for pool in self.stores.values() for facts in pool):
            if _CREDENTIALED in facts.licence.lower():
                yield f"corpus {facts.corpus} is under {facts.licence!r}"
        for key in ("data", "tasks", "corpora"):
            yield from _restricted_nodes(self.settings.get(key), key)


@dataclass(frozen=True)
class Lineage:
    """How a model came about.

    Attributes:
        runs: The last one first.
        base_model: Hub id that the first run started with, or that the weights are; None if none.
        origin: What is before the first run, in words.
        inherited: Restrictions that an earlier export has recorded.
        recorded_filters: What an earlier export says of the data of the runs behind it.
        is_whole: Nothing was trained on before the first known run.
    """

    runs: tuple[TrainedRun, ...]
    base_model: str | None
    origin: str
    inherited: tuple[str, ...] = ()
    recorded_filters: tuple[DataFilter, ...] = ()
    is_whole: bool = False

    def data_filters(self) -> list[DataFilter]:
        """Return all parts of the training data, with what was kept out of each."""
        own = [part for run in self.runs for part in run.data_filters()]
        return [*own, *self.recorded_filters]

    def filter_record(self) -> dict[str, Any]:
        """Return what an export keeps of the training data, for `filter_status` later on."""
        filters = [asdict(part) for part in self.data_filters()]
        return {"data_filters": filters, "is_whole": self.is_whole}

    def filter_status(self, split: SplitFiles) -> FilterStatus:
        """Compare the files of a test with those whose items were kept out of the training data."""
        found = [(part, part.status(split)) for part in self.data_filters()]
        reasons = [f"{part.data}: {status}" for part, status in found if status != FILTERED]
        if not self.is_whole:
            found.append((DataFilter(self.origin, None), UNKNOWN))
            reasons.append(f"{self.origin}: {UNKNOWN}")
        status = worst_status([status for _, status in found]) or UNKNOWN
        if status == UNKNOWN and len(found) > 1:
            reasons += [f"{part.data}: {FILTERED}" for part, each in found if each == FILTERED]
        return FilterStatus(status, tuple(reasons))

    def restrictions(self) -> list[str]:
        """Say which data of any of the runs may not be shared, each once."""
        found = [f"{why} (run {run.name})" for run in self.runs for why in run.restrictions()]
        return list(dict.fromkeys([*self.inherited, *found]))

    def unknown(self) -> list[str]:
        """Say of which training data it is not known whether it may be shared."""
        return [f"{what} (run {run.name})" for run in self.runs for what in run.unknown]


def find_lineage(checkpoint: str) -> Lineage:
    """Find the runs behind a model folder, a run folder, a checkpoint of a run or a hub id.

    Raises:
        DataError: A record or the settings of a run cannot be read.
    """
    runs: list[TrainedRun] = []
    inherited: list[str] = []
    seen: set[Path] = set()
    while True:
        path = Path(checkpoint).expanduser()
        export = _export_record(path)
        inherited += _recorded(export)
        folder = _run_folder(path)
        if folder is None:
            base, origin = _beginning(checkpoint, path, is_first=not runs)
            filters, is_whole = _recorded_filters(export, path)
            return Lineage(tuple(runs), base, origin, tuple(inherited), filters, is_whole)
        if folder in seen:
            raise DataError(f"{folder}: by its settings the run started with its own model")
        seen.add(folder)
        settings = run_settings_in(folder)
        runs.append(_read_run(folder, settings))
        if "model" not in settings:
            origin = f"what run {folder.name} started with is not known: it keeps no settings"
            return Lineage(tuple(runs), None, origin, tuple(inherited))
        named = settings["model"].get("checkpoint")
        if named is None:
            return Lineage(tuple(runs), None, "random weights", tuple(inherited), is_whole=True)
        checkpoint = str(_locate(str(named), folder) or named)


def restrictions_of(
    settings: Mapping[str, Any], description: Mapping[str, Any], start: Path | None = None
) -> list[str]:
    """Say why texts that a run generates may not be shown; empty if they may.

    Args:
        settings: The resolved configuration of the run.
        description: What its data says of itself, as in run.json.
        start: The checkpoint that it continues from.

    Raises:
        DataError: A record of an earlier run cannot be read.
    """
    pools = description.get("stores", {})
    stores = {name: [StoreFacts(**facts) for facts in pool] for name, pool in pools.items()}
    found = list(TrainedRun("", {"data": description}, settings, stores, ()).restrictions())
    named = (settings["model"].get("checkpoint"), start)
    for lineage in (find_lineage(str(checkpoint)) for checkpoint in named if checkpoint):
        unknown = [f"{what}: whether it may be shared is not known" for what in lineage.unknown()]
        found += [*lineage.restrictions(), *unknown]
    return list(dict.fromkeys(found))


def restrictions_in(settings: Mapping[str, Any]) -> list[str]:
    """Say which data that settings name may not be shared, each reason once.

    That is what they say themselves, and what is known of every store, run, model or other result
    that a value names, however deep, and of what that was made from.
    """
    return list(dict.fromkeys(_restrictions_in(settings, Path(), set())))


def keep_private(settings: Mapping[str, Any], *folders: Path) -> list[str]:
    """Let only the owner read what a program writes, if its settings name restricted data.

    To be called before anything is written; Hydra has made the run folder already.

    Args:
        settings: The resolved configuration of the program.
        folders: Those that it writes, which are made private with all that is in them.

    Returns:
        Why they are restricted; empty if nothing was changed.
    """
    reasons = restrictions_in(settings)
    if not reasons:
        return []
    if is_rank_zero():
        for folder in folders:
            make_private(folder)
        more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        sys.stderr.write(f"restricted: only you can read what is written ({reasons[0]}{more})\n")
    write_privately()
    return reasons


def _restrictions_in(settings: Mapping[str, Any], origin: Path, seen: set[Path]) -> Iterator[str]:
    for key, value in settings.items():
        yield from _restricted_nodes(value, key)
    for name in _names_in(settings):
        # Most values are no paths; some are too long for one, or start with a "~" that is none.
        with suppress(OSError, RuntimeError):
            if (place := _locate(name, origin)) is not None:
                yield from _restrictions_at(place.resolve(), seen)


def _restrictions_at(path: Path, seen: set[Path]) -> Iterator[str]:
    """Read the records of a store, run, evaluation or export that a path is or is in."""
    for folder in (path, *path.parents[:2]):
        if folder in seen:
            continue
        seen.add(folder)
        # Whoever needs the record reports that it is damaged.
        with suppress(DataError, TypeError, ValueError, AttributeError):
            if (folder / MANIFEST_NAME).is_file():
                manifest = Manifest.read(folder)
                if _CREDENTIALED in manifest.licence.lower():
                    yield f"corpus {manifest.corpus} is under {manifest.licence!r}"
            yield from _recorded(_export_record(folder))
            record = folder / RUN_RECORD
            if record.is_file():
                yield from map(str, read_run_record(record).get("restricted", ()))
                yield from _read_run(folder, {}).restrictions()
        with suppress(DataError):
            config = stored_config(folder)
            if config is not None:
                yield from _restrictions_in(plain_parts(config), folder, seen)


def _names_in(value: Any) -> Iterator[str]:
    """Find the values of settings that may be paths."""
    if isinstance(value, Mapping):
        for child in value.values():
            yield from _names_in(child)
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _names_in(child)
    elif isinstance(value, str) and 0 < len(value) < _LONGEST_NAME and "\n" not in value:
        yield value


def _run_folder(path: Path) -> Path | None:
    """Return the run that a path is or is in: <run>, <run>/model, <run>/checkpoints/<file>."""
    real = path.resolve()
    for folder in (real, real.parent, real.parent.parent):
        if path.exists() and (folder / RUN_RECORD).is_file():
            return folder
    return None


def _beginning(checkpoint: str, path: Path, *, is_first: bool) -> tuple[str | None, str]:
    if not path.exists() and _HUB_ID.fullmatch(checkpoint):
        base = checkpoint.partition("@")[0]
        return base, f"the published weights {checkpoint}"
    what = (
        "of this model" if is_first else f"of {path.name}, which the first known run started with,"
    )
    return None, f"the training {what} is not known: no run.json is beside its weights"


def _export_record(path: Path) -> dict[str, Any]:
    """Return the record of an export; empty if the path is none."""
    record = path / EXPORT_RECORD
    return dict(read_json(record, _EXPORT)) if record.is_file() else {}


def _recorded(export: Mapping[str, Any]) -> list[str]:
    """Return the restrictions that an export has written into its record."""
    return [str(why) for why in export.get("restricted") or []]


def _recorded_filters(export: Mapping[str, Any], path: Path) -> tuple[tuple[DataFilter, ...], bool]:
    """Return what an export says of its training data, and whether that is all of it."""
    try:
        found = tuple(DataFilter(**part) for part in export.get("data_filters") or [])
        _ = [(held["split"], held["rule"], held["files"]) for f in found for held in f.kept_apart]
    except (TypeError, KeyError) as error:
        raise DataError(f"{path / EXPORT_RECORD} is damaged ({error}); export again") from error
    return found, bool(found) and export.get("is_whole") is True


def _digests(files: Mapping[str, str]) -> list[str]:
    return [str(digest).removeprefix("sha256:") for digest in files.values()]


def _benchmarks_in(settings: Mapping[str, Any]) -> bool:
    """Say whether the settings of a streamed run name a benchmark, or do not say."""
    cleaning = settings.get("data", {}).get("cleaning") or settings.get("cleaning")
    if not isinstance(cleaning, Mapping):
        return True
    return bool((cleaning.get("firewall") or {}).get("benchmarks"))


def worst_status(statuses: Iterable[str | None]) -> str | None:
    """Return the status of several trainings together; None where none has one."""
    found = set(statuses)
    return next((each for each in (NOT_FILTERED, UNKNOWN, FILTERED) if each in found), None)


def _read_run(folder: Path, settings: Mapping[str, Any]) -> TrainedRun:
    record = read_run_record(folder / RUN_RECORD)
    data = record.get("data", {})
    stores: dict[str, list[StoreFacts]] = {}
    unknown: list[str] = []
    if data.get("stores") is not None:
        stores = {
            source: [build_record(StoreFacts, facts, folder / RUN_RECORD) for facts in pool]
            for source, pool in data["stores"].items()
        }
    elif "tasks" not in data:
        stores, unknown = _read_stores(folder, settings, record)
    return TrainedRun(folder.name, record, settings, stores, tuple(unknown))


def _read_stores(
    folder: Path, settings: Mapping[str, Any], record: Mapping[str, Any]
) -> tuple[dict[str, list[StoreFacts]], list[str]]:
    """Read the stores that the settings name; those that are missing or others are not known."""
    sources = settings.get("data", {}).get("sources")
    if sources is None:
        return {}, ["the run keeps neither the names of its corpora nor its settings"]
    if settings["data"].get("corpora"):  # streamed: the settings hold the terms of use
        return {}, []
    stores: dict[str, list[StoreFacts]] = {}
    unknown = []
    for source, names in sources.items():
        found = []
        for name in names:
            place = _locate(str(name), folder)
            if place is None:
                unknown.append(f"token store {name} is not there any more")
            else:
                found.append(StoreFacts.read(place))
        expected = record.get("sources", {}).get(source, {}).get("num_documents")
        if len(found) < len(names):
            continue
        if expected is not None and sum(facts.documents for facts in found) != expected:
            unknown.append(f"the stores of source {source} are not those of the run any more")
            continue
        stores[source] = found
    return stores, unknown


def _locate(name: str, run: Path) -> Path | None:
    """Find what a run named: from where it was started, which is above its folder, or from here."""
    own = Path(name).expanduser()
    places = [*(parent / own for parent in run.parents), own]
    return next((place for place in places if place.exists()), None)


def _restricted_nodes(value: Any, where: str) -> Iterator[str]:
    """Find nodes of settings that say so."""
    if isinstance(value, Mapping):
        if value.get("access") == "restricted":
            yield f"{where} has access: restricted"
        if _CREDENTIALED in str(value.get("licence", "")).lower():
            yield f"{where} is under {value['licence']!r}"
        for key, child in value.items():
            yield from _restricted_nodes(child, f"{where}.{key}")
