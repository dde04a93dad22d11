"""Questions to a ledger, against plain counting."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from biomamba.data.batches import Batch
from biomamba.data.datamodule import PretrainDataModule
from biomamba.data.ledger import (
    ENTRY_DTYPE,
    Chunk,
    Ledger,
    LedgerComparison,
    Origin,
    Overlap,
    Sighting,
    SourceTotals,
    Span,
    compare,
    documents,
    sightings,
    totals,
)
from biomamba.data.mixture import Mixture, Stage, TokenBudget
from biomamba.data.packing import BestFit, Concat, Packing, SingleDocument
from biomamba.data.store.writer import StorePolicy

Rows = Sequence[tuple[int, int, int, int, int]]
Make = Callable[..., Ledger]
# step, source, key, start, tokens
ROWS: Rows = [
    (0, 0, 11, 0, 8),
    (0, 0, 12, 8, 4),
    (1, 1, 11, 0, 3),
    (1, 0, 12, 0, 8),
    (3, 0, 11, 0, 8),
    (4, 0, 12, 0, 8),
    (4, 0, 12, 8, 4),
    (5, 0, 13, 8, 2),
    (5, 0, 11, 0, 8),
]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return make(name, rows, ...): a ledger of these entries in chunks of two steps."""

    def _make(
        name: str,
        rows: Rows = ROWS,
        *,
        first: int = 0,
        end: int = 6,
        sources: Sequence[str] = ("pubmed", "web"),
    ) -> Ledger:
        entries = np.array(rows, dtype=ENTRY_DTYPE)
        for step in range(first, end, 2):
            span = Span(step, min(step + 2, end), 0, 1)
            mine = (entries["step"] >= span.first_step) & (entries["step"] < span.end_step)
            Chunk(Origin("stream", list(sources), {}), span, entries[mine]).write(tmp_path / name)
        return Ledger(tmp_path / name)

    return _make


def test_a_document_is_found_with_its_steps_and_epochs(make: Make) -> None:
    assert sightings(make("run"), 12) == [
        Sighting(step=0, source="pubmed", epoch=0, start=8, tokens=4),
        Sighting(step=1, source="pubmed", epoch=0, start=0, tokens=8),
        Sighting(step=4, source="pubmed", epoch=1, start=0, tokens=8),
        Sighting(step=4, source="pubmed", epoch=1, start=8, tokens=4),
    ]


def test_one_key_in_two_sources_is_two_documents(make: Make) -> None:
    found = [(s.step, s.source, s.epoch) for s in sightings(make("run"), 11)]
    assert found == [(0, "pubmed", 0), (1, "web", 0), (3, "pubmed", 1), (5, "pubmed", 2)]


def test_a_document_cut_elsewhere_in_the_next_epoch_counts_by_its_tokens(make: Make) -> None:
    rows = [(0, 0, 5, 0, 3), (1, 0, 5, 3, 9), (2, 0, 5, 0, 7), (3, 0, 5, 7, 5)]
    assert [s.epoch for s in sightings(make("run", rows), 5)] == [0, 0, 1, 1]


def test_a_document_that_was_not_met_has_no_sightings(make: Make) -> None:
    assert sightings(make("run"), 14) == []


def test_totals_are_those_of_the_entries(make: Make) -> None:
    assert totals(make("run")) == {
        # 11 was started three times, 12 twice, of 13 only a later piece was met.
        "pubmed": SourceTotals(tokens=50, documents=3, repeats={0: 1, 2: 1, 3: 1}),
        "web": SourceTotals(tokens=3, documents=1, repeats={1: 1}),
    }


def test_a_source_that_was_not_trained_on_has_nothing(make: Make) -> None:
    found = totals(make("run", sources=["pubmed", "web", "c4"]))
    assert found["c4"] == SourceTotals(tokens=0, documents=0, repeats={})


def test_documents_are_the_different_keys(make: Make) -> None:
    found = documents(make("run"))
    assert {name: keys.tolist() for name, keys in found.items()} == {
        "pubmed": [11, 12, 13],
        "web": [11],
    }


def test_equal_runs_are_equal_at_every_step(make: Make) -> None:
    assert compare(make("a"), make("b")) == LedgerComparison(
        num_compared_steps=6,
        first_difference=None,
        overlaps={"pubmed": Overlap(3, 0, 0), "web": Overlap(1, 0, 0)},
    )


@pytest.mark.parametrize("index", range(len(ROWS)))
def test_one_other_document_is_found_at_its_step(index: int, make: Make) -> None:
    step, source, _, start, tokens = ROWS[index]
    changed = [*ROWS[:index], (step, source, 99, start, tokens), *ROWS[index + 1 :]]
    found = compare(make("a"), make("b", changed))
    assert found.first_difference == step
    assert found.overlaps[["pubmed", "web"][source]].only_second == 1


@pytest.mark.parametrize("index", range(len(ROWS)))
def test_one_missing_piece_is_found_at_its_step(index: int, make: Make) -> None:
    found = compare(make("a"), make("b", [*ROWS[:index], *ROWS[index + 1 :]]))
    assert found.first_difference == ROWS[index][0]


def test_another_order_within_a_step_is_a_difference(make: Make) -> None:
    swapped = [*ROWS[:5], ROWS[6], ROWS[5], *ROWS[7:]]
    found = compare(make("a"), make("b", swapped))
    assert found.first_difference == 4
    assert found.overlaps["pubmed"] == Overlap(3, 0, 0)


def test_only_steps_that_both_record_are_compared(make: Make) -> None:
    late = make("b", [row for row in ROWS if row[0] >= 2], first=2)
    found = compare(make("a"), late)
    assert (found.num_compared_steps, found.first_difference) == (4, None)
    assert found.overlaps == {"pubmed": Overlap(3, 0, 0), "web": Overlap(0, 1, 0)}


def test_sources_are_compared_by_name(make: Make) -> None:
    renumbered = [(step, 1 - source, *rest) for step, source, *rest in ROWS]
    other = make("b", renumbered, sources=["web", "pubmed"])  # type: ignore[arg-type]
    assert compare(make("a"), other).first_difference is None
    renamed = make("c", sources=["pubmed", "c4"])
    found = compare(make("a"), renamed)
    assert found.first_difference == 1
    assert found.overlaps == {
        "pubmed": Overlap(3, 0, 0),
        "web": Overlap(0, 1, 0),
        "c4": Overlap(0, 0, 1),
    }


def test_the_shared_ratio_is_that_of_all_documents() -> None:
    assert Overlap(both=3, only_first=1, only_second=2).shared_ratio == 0.5
    assert Overlap(0, 0, 0).shared_ratio == 0.0


# From here on with the batches of a real run.
BUDGET = TokenBudget(64 * 512, 512, 64, 2)
WEIGHTS = {"short": 0.6, "long": 0.4}


@pytest.fixture
def module(write_store: Callable[..., Path]) -> Callable[..., PretrainDataModule]:
    """Return module(packing): a run over two sources that passes over both several times."""
    generator = np.random.default_rng(0)
    lengths = {
        "short": generator.integers(1, 40, size=60),
        "long": generator.integers(40, 300, size=20),
    }
    policy = StorePolicy(val_permille=200, test_permille=100)
    texts = {
        name: [f"{i} " + "x" * int(length) for i, length in enumerate(found)]
        for name, found in lengths.items()
    }
    sources = {name: [str(write_store(name, texts[name], policy=policy))] for name in texts}

    def _module(packing: Packing) -> PretrainDataModule:
        stages = [Stage(20 * 512, {"short": 0.2, "long": 0.8})]
        mixture = Mixture(WEIGHTS, "sequences", 10, stages)
        return PretrainDataModule(
            sources=sources, mixture=mixture, packing=packing, budget=BUDGET, seed=1
        )

    return _module


def ledger_of(data: PretrainDataModule, folder: Path, world_size: int) -> Ledger:
    """Write the ledger of all steps from the batches of every rank."""
    for rank in range(world_size):
        steps = data.steps(rank=rank, world_size=world_size)
        parts = [_entries(step, batch) for step in range(BUDGET.num_steps) for batch in steps[step]]
        span = Span(0, BUDGET.num_steps, rank, world_size)
        origin = Origin(data.fingerprint, data.source_names, data.store_folders)
        Chunk(origin, span, np.concatenate(parts)).write(folder)
    return Ledger(folder)


def _entries(step: int, batch: Batch) -> NDArray[Any]:
    entries = np.zeros(len(batch.pieces), dtype=ENTRY_DTYPE)
    entries["step"] = step
    for name in ("source", "key", "start", "tokens"):
        entries[name] = batch.pieces[name]
    return entries


def stream_of(data: PretrainDataModule) -> list[tuple[int, ...]]:
    """Return the entries of the run from the mixture, the plans and the keys alone."""
    ready = data._built
    found = []
    for sample in range(BUDGET.num_steps * BUDGET.sequences_per_step):
        index, row, _ = ready.rows.locate(sample)
        source = ready.sources[index]
        for document, start, length in source.plan.pieces(row):
            key = int(source.split.keys[document])
            found.append((sample // BUDGET.sequences_per_step, index, key, start, length))
    return found


@pytest.mark.parametrize("packing", [BestFit(), Concat(), SingleDocument(drop_overflow=True)])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ledger_of_all_ranks_is_the_stateless_stream(
    packing: Packing,
    world_size: int,
    module: Callable[..., PretrainDataModule],
    tmp_path: Path,
) -> None:
    data = module(packing)
    ledger = ledger_of(data, tmp_path / "ledger", world_size)
    assert np.concatenate(list(ledger.chunks())).tolist() == stream_of(data)


@pytest.mark.parametrize("packing", [BestFit(), Concat(), SingleDocument()])
def test_every_full_epoch_has_every_token_of_every_document_once(
    packing: Packing, module: Callable[..., PretrainDataModule], tmp_path: Path
) -> None:
    data = module(packing)
    ledger = ledger_of(data, tmp_path / "ledger", 2)
    for index, (name, exposure) in enumerate(data.exposures.items()):
        num_full = int(exposure.epochs)
        assert num_full >= 2
        split = data._built.sources[index].split
        for key, length in zip(split.keys.tolist(), split.lengths.tolist(), strict=True):
            found = [s for s in sightings(ledger, key) if s.source == name]
            for epoch in range(num_full):
                mine = [s for s in found if s.epoch == epoch]
                covered = sorted(t for s in mine for t in range(s.start, s.start + s.tokens))
                assert covered == list(range(length))


def test_the_totals_are_what_the_batches_score(
    module: Callable[..., PretrainDataModule], tmp_path: Path
) -> None:
    data = module(BestFit())
    found = totals(ledger_of(data, tmp_path / "ledger", 2))
    scored = np.zeros(2, dtype=np.int64)
    steps = data.steps(rank=0, world_size=1)
    for step in range(BUDGET.num_steps):
        for batch in steps[step]:
            np.add.at(scored, batch.source.numpy(), (batch.targets >= 0).sum(dim=1).numpy())
    assert [source.tokens for source in found.values()] == scored.tolist()
    for name, exposure in data.exposures.items():
        assert found[name].documents == exposure.num_documents


def test_runs_of_two_packings_differ_in_order_but_not_in_documents(
    module: Callable[..., PretrainDataModule], tmp_path: Path
) -> None:
    runs = [ledger_of(module(p), tmp_path / str(p), 1) for p in (BestFit(), Concat())]
    found = compare(*runs)
    assert found.first_difference == 0
    assert {overlap.shared_ratio for overlap in found.overlaps.values()} == {1.0}
