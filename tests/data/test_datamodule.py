"""The datamodule: mixture over stores, resume, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from biomamba.config.check import build
from biomamba.data.batches import Batch
from biomamba.data.datamodule import PretrainDataModule
from biomamba.data.mixture import Mixture, SourceSize, Stage, TokenBudget
from biomamba.data.packing import BestFit, Concat, SingleDocument
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import ByteLevel, Tokenizer, obtain_tokenizer
from biomamba.runtime.errors import ConfigError, DataError

BUDGET = TokenBudget(max_tokens=64 * 512, tokens_per_step=512, seq_len=64, micro_batch_size=2)
WEIGHTS = {"short": 0.8, "long": 0.1, "mixed": 0.1}
Make = Callable[..., PretrainDataModule]


@pytest.fixture
def sources(write_store: Callable[..., Path]) -> dict[str, list[str]]:
    """Three sources of very uneven document lengths; `mixed` pools two stores."""
    generator = np.random.default_rng(0)

    def texts(low: int, high: int, count: int) -> list[str]:
        lengths = generator.integers(low, high, size=count)
        return [f"{i} " + "x" * int(length) for i, length in enumerate(lengths)]

    policy = StorePolicy(val_permille=200, test_permille=100)
    folders = {
        "short": [write_store("short", texts(1, 40, 300), policy=policy)],
        "long": [write_store("long", texts(80, 400, 60), policy=policy)],
        "mixed": [
            write_store("mixed1", texts(1, 200, 60), policy=policy),
            write_store("mixed2", texts(30, 50, 60), policy=policy),
        ],
    }
    return {name: [str(folder) for folder in pool] for name, pool in folders.items()}


@pytest.fixture
def make(sources: dict[str, list[str]]) -> Make:
    """Return make(**changes): a datamodule over the three sources."""

    def _make(**changes: Any) -> PretrainDataModule:
        options: dict[str, Any] = {
            "sources": sources,
            "mixture": Mixture(WEIGHTS, block_size=200),
            "packing": BestFit(),
            "budget": BUDGET,
            "seed": 1,
        }
        return PretrainDataModule(**(options | changes))

    return _make


def target_shares(module: PretrainDataModule, num_steps: int) -> np.ndarray[Any, Any]:
    steps = module.steps(rank=0, world_size=1)
    tokens = np.zeros(3)
    for step in range(num_steps):
        for batch in steps[step]:
            np.add.at(tokens, batch.source.numpy(), (batch.targets >= 0).sum(dim=1).numpy())
    return tokens / tokens.sum()


def test_token_shares_hold_on_uneven_lengths(make: Make) -> None:
    # 2,000 rows are ten blocks; each source but `short` has passed several epochs by then.
    budget = TokenBudget(2_000 * 64, 512, 64, 2)
    shares = target_shares(make(budget=budget), budget.num_steps)
    assert np.abs(shares - [0.8, 0.1, 0.1]).max() <= 0.005


def test_the_source_names_are_in_the_order_of_the_sources(make: Make) -> None:
    assert make().source_names == ["short", "long", "mixed"]


def test_the_weights_follow_the_order_of_the_sources(make: Make) -> None:
    shuffled = Mixture(dict(reversed(WEIGHTS.items())), block_size=200)
    assert list(make(mixture=shuffled).source_weights.items()) == list(WEIGHTS.items())


def test_tokenizer_and_vocabulary_come_from_the_stores(
    make: Make, byte_tokenizer: Tokenizer
) -> None:
    module = make()
    assert module.tokenizer_fingerprint == byte_tokenizer.fingerprint
    assert module.vocab_size == 257


def test_the_loaders_work_without_a_trainer(make: Make) -> None:
    module = make()
    module.prepare_data()
    module.setup("fit")
    assert len(module.train_dataloader()) == 64
    assert len(module.val_dataloader()) == 3


def test_every_source_is_validated_on_whole_documents(make: Make) -> None:
    module = make(max_val_documents=4)
    for index, loader in enumerate(module.val_dataloader()):
        batches = list(loader)
        documents = {int(d) for batch in batches for d in batch.document.unique()}
        assert documents - {-1} == {0, 1, 2, 3}
        assert {int(s) for batch in batches for s in batch.source} == {index}


def test_a_source_of_weight_zero_is_validated_but_not_trained(make: Make) -> None:
    module = make(mixture=Mixture({"short": 0.0, "long": 0.5, "mixed": 0.5}))
    assert target_shares(module, 20)[0] == 0
    assert len(list(module.val_dataloader()[0])) > 0


STAGES = [Stage(32 * 512, {"short": 0.0, "long": 0.5, "mixed": 0.5})]


def test_the_weights_of_the_run_change_with_the_stages(make: Make) -> None:
    budget = TokenBudget(2_000 * 64, 512, 64, 2)
    first = {"short": 1.0, "long": 0.0, "mixed": 0.0}
    stages = [Stage(100 * 512, {"short": 0.0, "long": 0.5, "mixed": 0.5})]
    module = make(budget=budget, mixture=Mixture(first, "sequences", 100, stages))
    # 100 of 250 steps of eight rows.
    mean = {"short": 0.4, "long": 0.3, "mixed": 0.3}
    assert module.source_weights == pytest.approx(mean)
    steps = module.steps(rank=0, world_size=1)
    sources = np.array([int(s) for step in range(250) for b in steps[step] for s in b.source])
    assert set(sources[:800].tolist()) == {0}
    assert np.bincount(sources[800:]).tolist() == [0, 600, 600]
    drawn = {name: found.num_rows_drawn for name, found in module.exposures.items()}
    assert drawn == {"short": 800, "long": 600, "mixed": 600}


def test_a_stage_that_the_run_does_not_reach_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match="start_tokens=16,384"):
        make(mixture=Mixture(WEIGHTS, stages=STAGES), budget=TokenBudget(32 * 512, 512, 64, 2))


def test_dropped_tokens_are_counted_and_not_trained_on(make: Make) -> None:
    module = make(packing=SingleDocument(drop_overflow=True))
    lengths = module._built.sources[1].split.lengths
    found = module.exposures["long"]
    assert found.num_dropped_tokens == int(np.maximum(lengths - 64, 0).sum()) > 0
    assert found.num_tokens == int(np.minimum(lengths, 64).sum())
    assert found.num_cut_documents == int((lengths > 64).sum())


def test_the_released_mixture_is_ten_documents_to_one_and_one(
    compose: Callable[..., DictConfig],
) -> None:
    cfg = compose("train", "+experiment=cpt/paper_release_130m")
    mixture, packing, budget = (build(cfg.data[name]) for name in ("mixture", "packing", "budget"))
    assert (budget.num_steps, budget.sequences_per_step) == (5_964, 256)
    # Rows hold one document each, so rows and documents are shared alike, whatever their tokens.
    sizes = {"pubmed": (900, 290), "c4": (800, 575), "wikipedia": (700, 821)}
    counts = mixture.counts({name: SourceSize(n, n * t, n) for name, (n, t) in sizes.items()})
    assert counts == {"pubmed": 1_000, "c4": 100, "wikipedia": 100}
    plan = packing.plan(np.array([290, 1_024, 5_000]), budget.seq_len)
    assert plan.piece_length.tolist() == [290, 1_024, 1_024]


def test_keys_of_weights_and_sources_must_be_equal(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"\['long', 'short'\].*\['long', 'mixed', 'short'\]"):
        make(mixture=Mixture({"short": 0.5, "long": 0.5}))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"verify": "quick"}, "full, size"),
        ({"max_val_documents": 0}, "max_val_documents must be .* at least 1, or null, found 0"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, Any], match: str, make: Make) -> None:
    with pytest.raises(ConfigError, match=match):
        make(**changes)


def test_stores_of_another_split_rule_are_refused_across_sources(
    make: Make, sources: dict[str, list[str]], write_store: Callable[..., Path]
) -> None:
    other = write_store("other", ["text"], policy=StorePolicy(0, 0))
    with pytest.raises(DataError, match="differ in split"):
        make(sources=sources | {"long": [str(other)]}).setup("fit")


@pytest.mark.parametrize(("verify", "is_found"), [("full", True), ("size", False)])
def test_prepare_data_verifies_as_asked(
    verify: str, is_found: bool, make: Make, sources: dict[str, list[str]]
) -> None:
    path = Path(sources["mixed"][1]) / "00000.train.bin"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    module = make(verify=verify)
    if is_found:
        with pytest.raises(DataError, match=r"mixed2 is damaged: 00000\.train\.bin"):
            module.prepare_data()
    else:
        module.prepare_data()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2},
        {"packing": Concat()},
        {"mixture": Mixture(WEIGHTS, block_size=400)},
        {"mixture": Mixture(WEIGHTS, block_size=200, stages=STAGES)},
        {"budget": TokenBudget(64 * 1024, 1024, 64, 2)},
        {"budget": TokenBudget(64 * 512, 512, 32, 2)},
    ],
)
def test_a_checkpoint_of_another_stream_is_refused(changes: dict[str, Any], make: Make) -> None:
    state = make().state_dict()
    with pytest.raises(DataError, match="another stream of rows"):
        make(**changes).load_state_dict(state)


def test_another_store_is_another_stream(make: Make, sources: dict[str, list[str]]) -> None:
    swapped = sources | {"long": [sources["mixed"][0]], "mixed": [sources["long"][0]]}
    assert make().fingerprint != make(sources=swapped).fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": TokenBudget(128 * 512, 512, 64, 2)},
        {"budget": TokenBudget(64 * 512, 512, 64, 4)},
        {"num_workers": 2},
        {"max_val_documents": 3},
    ],
)
def test_length_micro_batch_and_workers_do_not_change_the_stream(
    changes: dict[str, Any], make: Make
) -> None:
    assert make().fingerprint == make(**changes).fingerprint


def test_an_option_that_drops_tokens_is_another_stream(make: Make) -> None:
    streams = [make(packing=SingleDocument(drop)) for drop in (False, True)]
    assert streams[0].fingerprint != streams[1].fingerprint


def test_a_checkpoint_beyond_the_budget_is_refused(make: Make) -> None:
    state = make().state_dict() | {"consumed_steps": 65}
    with pytest.raises(DataError, match="has seen 65 steps, the budget has 64"):
        make().load_state_dict(state)


def test_the_tokenizer_is_saved_beside_a_model(
    make: Make, sources: dict[str, list[str]], tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    folder = Path(sources["short"][0]).parent
    obtain_tokenizer(folder, ByteLevel(), lambda: iter(()), dict, overwrite=False)
    make().save_tokenizer(tmp_path / "tokenizer.json")
    saved = Tokenizer.load(str(tmp_path / "tokenizer.json"))
    assert saved.fingerprint == byte_tokenizer.fingerprint


class Recorder(lightning.LightningModule):
    """A module of one weight that notes the rows it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.automatic_optimization = False
        self.seen: list[int] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: list[Batch], batch_idx: int) -> None:
        for part in batch:
            self.manual_backward(self.weight * 1.0)
            self.seen += part.row_ids.tolist()
        optimizer: Any = self.optimizers()
        optimizer.step()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        assert batch.input_ids.ndim == 2


class SaveAndStop(lightning.Callback):
    """Save a checkpoint at a step, as ModelCheckpoint does, and end the run."""

    def __init__(self, step: int, path: Path) -> None:
        self.step = step
        self.path = path

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def run(
    module: PretrainDataModule, last_step: int, path: Path, resume: Path | None = None
) -> list[int]:
    """Train to a step, save the checkpoint there and return the rows seen."""
    trainer = lightning.Trainer(
        max_epochs=1,
        max_steps=module.budget.num_steps,
        accelerator="cpu",
        logger=False,
        callbacks=[SaveAndStop(last_step, path)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=7,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        default_root_dir=path.parent,
    )
    recorder = Recorder()
    trainer.fit(recorder, module, ckpt_path=resume, weights_only=True)
    return recorder.seen


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*srun.*")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*")
def test_a_resumed_run_sees_the_rest_of_the_rows_and_no_others(make: Make, tmp_path: Path) -> None:
    first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    assert run(make(), 13, first) == list(range(13 * 8))
    assert run(make(), 20, second, resume=first) == list(range(13 * 8, 20 * 8))
    # The last run resumes with other micro-batches and goes to the end of the budget.
    module = make(budget=TokenBudget(64 * 512, 512, 64, 4))
    assert run(module, 0, tmp_path / "none.ckpt", resume=second) == list(range(20 * 8, 64 * 8))


def test_lightnings_own_sampler_is_refused(make: Make) -> None:
    class Connector:
        use_distributed_sampler = True

    class FakeTrainer:
        world_size, global_rank = 2, 0
        _accelerator_connector = Connector()

    module: Any = make()
    module.trainer = FakeTrainer()
    with pytest.raises(ConfigError, match="use_distributed_sampler must be false"):
        module.train_dataloader()
    Connector.use_distributed_sampler = False
    assert len(module.train_dataloader()) == 64


def test_the_record_of_a_run_names_corpora_and_terms_of_use(make: Make) -> None:
    datamodule = make()
    told = json.loads(json.dumps(datamodule.description))["stores"]

    assert {name: len(pool) for name, pool in told.items()} == {"short": 1, "long": 1, "mixed": 2}
    manifest = datamodule.stores["long"][0].manifest
    assert told["long"][0]["licence"] == manifest.licence
    assert told["long"][0]["tokens"] == manifest.totals["train"].tokens


def test_a_limit_gives_fewer_documents_and_other_steps(make: Make) -> None:
    whole, half = make(), make(max_train_tokens={"short": 2_000})
    lengths = half.training_split("short").lengths

    assert lengths.sum() <= 2_000 < whole.training_split("short").lengths.sum()
    assert len(half.training_split("long")) == len(whole.training_split("long"))
    assert half.fingerprint != whole.fingerprint
    assert make(max_train_tokens=None).fingerprint == make(max_train_tokens={}).fingerprint


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"shrot": 5}, "max_train_tokens names shrot; the sources are short, long, mixed"),
        ({"short": 0}, r"max_train_tokens\.short must be .* at least 1, found 0"),
    ],
)
def test_a_limit_that_no_source_can_have_is_refused(
    make: Make, limits: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(max_train_tokens=limits)


@pytest.mark.parametrize("limit", [1, 10**9])
def test_a_limit_outside_of_what_there_is_is_refused(make: Make, limit: int) -> None:
    module = make(max_train_tokens={"long": limit})

    with pytest.raises(ConfigError, match=r"max_train_tokens\.long is .* training tokens in"):
        module.training_split("long")
