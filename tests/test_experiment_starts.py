"""Every shipped experiment starts: some steps of its program on tiny stores, models and files.

What an experiment sets must arrive where it counts: in the data, the optimizer, the model.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus_files import RAW, write_corpora
from experiments import ALL, NAMES, composed, program_of
from omegaconf import DictConfig, OmegaConf
from task_files import write_task_files

from biomamba import efficiency, evaluate, prepare, train
from biomamba.config.check import build
from biomamba.data.store.format import CONTAMINATION_NAME
from biomamba.data.tokenizer import Tokenizer
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.checkpoint import save_pretrained
from biomamba.model.config import Mamba1Config, Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.runtime.files import read_sealed
from biomamba.timing.records import EFFICIENCY_FILE, read_efficiency

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
]

VOCABULARY = 320
WIDTH: dict[str, Any] = {"d_model": 16, "n_layer": 1, "vocab_size": VOCABULARY}
MIXER: dict[str, dict[str, Any]] = {
    "Mamba1Config": {"d_state": 4},
    "Mamba2Config": {"d_state": 8, "headdim": 8},
}
NUM_STEPS, ROWS = 2, 8
LIMIT = 2_000  # tokens of a source
HUB = {"pubmed": 0, "medrag": 0, "c4": 1, "wikipedia": 4}
PREPARED = [name for name in NAMES if program_of(name) == "prepare"]
# The others take the tokenizer of this one.
PREPARED.sort(key="real_text/prepare".__ne__)


def of_program(program: str) -> list[str]:
    return [name for name in NAMES if program_of(name) == program]


def put(cfg: DictConfig, **values: Any) -> None:
    """Set keys, with __ for a dot."""
    for key, value in values.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, merge=False, force_add=True)


def put_paths(cfg: DictConfig, place: Path, run_dir: Path) -> None:
    put(cfg, paths__data_dir=f"{place}/data", paths__raw_dir=f"{place}/raw")
    put(cfg, paths__run_dir=str(run_dir))


def start_prepare(name: str, root: Path) -> None:
    """Prepare the set of an experiment; files stand for the hub, bytes for its tokenizer."""
    cfg = composed(name)
    put_paths(cfg, root, root / "prepare")
    put(cfg, split__val_permille=150, split__test_permille=150)
    for corpus, node in cfg.corpora.items():
        if "HubRows" in str(node.get("rows", {}).get("_target_")):
            files = [str(root / "raw" / RAW[HUB[str(corpus)]])]
            rows = {"_target_": "biomamba.data.rows.LocalRows", "files": files}
            put(cfg, **{f"corpora__{corpus}__rows": rows})
    if "path" in cfg.tokenizer and "/local/" not in cfg.tokenizer.path:
        put(cfg, tokenizer={"_target_": "biomamba.data.tokenizer.ByteLevel"})
    elif "vocab_size" in cfg.tokenizer:
        put(cfg, tokenizer__vocab_size=VOCABULARY - 20)
    prepare.main(cfg)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with raw files, the sets of all prepare experiments, and models."""
    root = tmp_path_factory.mktemp("place")
    write_corpora(root / "raw")
    write_task_files(root / "raw")
    for name in PREPARED:
        start_prepare(name, root)
    local, embedded = root / "data" / "local", root / "data" / "embedded"
    named = {"biomedical": "pubmed", "web": "c4_prefix", "encyclopaedic": "wikipedia"}
    for target, source in named.items():
        shutil.copytree(local / source, embedded / target)
    for file in ("tokenizer.json", "tokenizer.record.json"):
        shutil.copy(local / file, embedded / file)
    for model, config in (
        ("Mamba1Config", Mamba1Config(**WIDTH, **MIXER["Mamba1Config"])),
        ("Mamba2Config", Mamba2Config(**WIDTH, **MIXER["Mamba2Config"])),
    ):
        for folder in (root / model, root / f"{model}_of_tasks"):
            torch.manual_seed(0)
            save_pretrained(MambaLM(config, ChunkedScan(8)), folder)
        Tokenizer.byte_tokenizer().save(folder / "tokenizer.json")
    return root


@pytest.mark.parametrize("name", PREPARED)
def test_a_set_is_prepared(name: str, place: Path) -> None:
    cfg = composed(name)
    folder = place / "data" / cfg.name
    report = read_sealed(folder / CONTAMINATION_NAME)

    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(cfg.corpora)
    assert report["is_firewall_on"] is cfg.firewall
    guarded = set(cfg.cleaning.firewall.benchmarks) if cfg.firewall else set()
    assert set(report["benchmarks"]) == guarded


@dataclass
class Run:
    """A run that was made, and the objects that made it."""

    folder: Path
    record: dict[str, Any]
    data: Any
    module: Any


@pytest.fixture
def run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Return run(name): the experiment, shrunk, in the program itself."""
    hydra = type("Hydra", (), {"overrides": type("Overrides", (), {"task": []})})
    monkeypatch.setattr("biomamba.train.HydraConfig.get", lambda: hydra)
    built: list[Any] = []
    build_module = train.build_module

    def heard(cfg: DictConfig, data: Any) -> Any:
        built[:] = [data, build_module(cfg, data)]
        return built[1]

    monkeypatch.setattr(train, "build_module", heard)

    def _run(name: str) -> Run:
        cfg = composed(name)
        shrink(cfg, place, tmp_path / "run")
        train.main(cfg)
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        return Run(tmp_path / "run", record, *built)

    return _run


def shrink(cfg: DictConfig, place: Path, folder: Path) -> None:
    """Make an experiment small: sizes and places change, nothing that it is about."""
    is_of_tasks = "tasks" in cfg.data
    seq_len = 512 if is_of_tasks else 32
    put_paths(cfg, place, folder)
    put(cfg, tokens_per_step=ROWS * seq_len, max_tokens=NUM_STEPS * ROWS * seq_len)
    put(
        cfg, data__budget__seq_len=seq_len, data__budget__micro_batch_size=ROWS, data__num_workers=0
    )
    config = cfg.model.config._target_.rsplit(".", 1)[1]
    for key, value in (WIDTH | MIXER[config]).items():
        put(cfg, **{f"model__config__{key}": value})
    if cfg.model.checkpoint is not None:
        put(cfg, model__checkpoint=f"{place}/{config}{'_of_tasks' if is_of_tasks else ''}")
    if cfg.objective.segment_tokens is not None:
        put(cfg, objective__segment_tokens=seq_len)
    if is_of_tasks:
        put(cfg, data__budget__epochs=None, data__samples__max_reject_ratio=1.0)
        put(cfg, data__samples__max_target_tokens=64, data__samples__max_val_items=2)
    else:
        put(cfg, data__max_val_documents=2, data__verify="size")
        if cfg.data.max_train_tokens:
            put(cfg, data__max_train_tokens=dict.fromkeys(cfg.data.max_train_tokens, LIMIT))
    kept = {key: cfg.trainer[key] for key in cfg.trainer if key != "strategy"}
    changed = {"accelerator": "cpu", "devices": 1, "precision": "32-true"}
    put(cfg, trainer=kept | changed | {"val_check_interval": NUM_STEPS, "log_every_n_steps": 1})
    put(cfg, callbacks__progress=None, callbacks__preemption=None)
    put(cfg, callbacks__checkpoint__every_n_steps=NUM_STEPS)


@pytest.mark.parametrize("name", of_program("train"))
def test_a_training_starts_with_what_it_sets(name: str, run: Callable[..., Run]) -> None:
    cfg, done = composed(name), run(name)
    optimizer = done.module.configure_optimizers()

    assert done.record["after"]["step"] == NUM_STEPS
    assert max(group["lr"] for group in optimizer.param_groups) == cfg.optimizer.lr
    depth = [group["lr_factor"] for group in optimizer.param_groups]
    assert done.module._optimizer == build(cfg.optimizer)
    assert min(depth) == 1  # one layer
    assert_same_schedule(cfg, done.module._schedule)
    assert list(done.module.model.config.static) == list(cfg.model.config.static)
    assert done.module._objective.segment_state == cfg.objective.segment_state
    is_segmented = done.module._objective.segment_tokens is not None
    assert is_segmented is (cfg.objective.segment_tokens is not None)
    assert done.data.packing == build(cfg.data.packing)
    for option, folder in (("ema", "model_ema"), ("selection", "model_best")):
        is_on = cfg.callbacks[option] is not None
        assert (done.folder / folder).is_dir() is is_on or (option, is_on) == ("selection", False)
    assert done.data._seed == cfg.seed
    if "tasks" in cfg.data:
        assert_tasks_arrived(cfg, done)
    else:
        assert_corpora_arrived(cfg, done)


def assert_same_schedule(cfg: DictConfig, schedule: Any) -> None:
    node = {key: value for key, value in cfg.schedule.items() if key not in ("total_tokens",)}
    assert node.pop("_target_").endswith(type(schedule).__name__)
    assert {key: getattr(schedule, key) for key in node} == node


def assert_corpora_arrived(cfg: DictConfig, done: Run) -> None:
    weights = dict(cfg.data.mixture.weights.items())
    assert done.module.source_weights == pytest.approx(weights)
    assert done.data.mixture.unit == cfg.data.mixture.unit
    seen = {n: found["tokens"] for n, found in done.record["realised"].items()}
    assert all(seen[name] == 0 for name, share in weights.items() if share == 0)
    folders = {name: [Path(path).parts[-2:] for path in cfg.sources[name]] for name in weights}
    stores = done.data.store_folders
    assert {name: [Path(path).parts[-2:] for path in stores[name]] for name in stores} == folders
    for name in cfg.data.max_train_tokens or ():
        assert 0 < done.data.training_split(name).lengths.sum() <= LIMIT
    assert done.data._max_repetition == cfg.data.max_repetition


def assert_tasks_arrived(cfg: DictConfig, done: Run) -> None:
    told = done.record["data"]["tasks"]
    assert set(told) == set(cfg.tasks)
    if cfg.data.shares is not None:
        assert done.module.source_weights == pytest.approx(dict(cfg.data.shares), abs=0.02)
    for name, found in told.items():
        assert bool(found["label_weights"]) is (
            cfg.data.balance.class_weighted and bool(found["train"]["labels"])
        )
        ratio = cfg.data.balance.ratios.get(name)
        if ratio is not None:
            labels = found["train"]["labels"]
            assert labels["yes"] / labels["no"] == pytest.approx(
                ratio["yes"] / ratio["no"], rel=0.1
            )


@pytest.mark.parametrize("name", of_program("evaluate"))
def test_an_evaluation_scores_what_it_names(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hydra = type("Hydra", (), {"overrides": type("Overrides", (), {"task": []})})
    monkeypatch.setattr("biomamba.evaluate.HydraConfig.get", lambda: hydra)
    cfg = composed(name)
    put_paths(cfg, place, tmp_path / "run")
    put(cfg, checkpoint=f"{place}/Mamba2Config_of_tasks", baseline=f"{place}/Mamba2Config")
    put(cfg, evaluation__seq_len=32, evaluation__max_documents=2)
    put(cfg, evaluation__bootstrap__num_resamples=20)
    put(cfg, answers__max_items=2, answers__max_prompt_tokens=320, answers__num_random_draws=2)
    for task in cfg.tasks:
        if "max_new_tokens" in cfg.tasks[task]:
            put(cfg, **{f"tasks__{task}__max_new_tokens": 2})
    sets = [Path(pool[0]).parent for pool in cfg.sources.values()]
    if sets:
        put(cfg, tokenizer_file=str(sets[0] / "tokenizer.json"))
        put(cfg, checkpoint=f"{place}/Mamba2Config")
    else:
        put(cfg, tokenizer_file=f"{place}/Mamba2Config_of_tasks/tokenizer.json")
    evaluate.main(cfg)

    for file, key, named in (
        ("results.jsonl", "source", cfg.sources),
        ("task_results.jsonl", "task", cfg.tasks),
    ):
        path = tmp_path / "run" / file
        lines = path.read_text().splitlines() if path.is_file() else []
        records = [json.loads(line) for line in lines]
        assert {record[key] for record in records} - {"mean"} == set(named)
        assert {record["split"] for record in records} <= {cfg.split}


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("bench/")])
def test_a_measurement_takes_the_phases_that_it_names(name: str, tmp_path: Path) -> None:
    cfg = composed(name)
    put(cfg, paths__run_dir=str(tmp_path), model__config__d_model=128, model__config__n_layer=2)
    put(cfg, model__config__vocab_size=VOCABULARY)
    put(cfg, efficiency__lengths=[8, 16], efficiency__repeats=1, efficiency__warmup=1)
    put(cfg, efficiency__decode_tokens=2, efficiency__product_size=16, efficiency__device="cpu")
    efficiency.main(cfg)

    found = {(r.phase, r.batch, r.model) for r in read_efficiency(tmp_path / EFFICIENCY_FILE)}
    models = ("mamba2", "transformer")
    asked = cfg.efficiency
    assert found == {(p, b, m) for p in asked.phases for b in asked.batches for m in models}
