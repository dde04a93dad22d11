"""The steps of a run: equal for any ranks, workers and interruptions."""

import gzip
import json
import pickle
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from biomamba.data.batches import Batch
from biomamba.data.corpora.table import ColumnCorpus
from biomamba.data.mixture import TokenBudget
from biomamba.data.remote import HubRows, Patience
from biomamba.data.streaming.readers import Positions, StreamLoader, StreamPlan, readers_of
from biomamba.runtime.errors import ConfigError, DataError

Make = Callable[..., Any]
NUM_STEPS = 64


def digest(micro_batches: list[Batch]) -> str:
    """Hash everything that a step of one or all ranks holds, in the order of the rows."""
    rows = np.concatenate([batch.row_ids.numpy() for batch in micro_batches])
    assert rows.tolist() == sorted(rows.tolist())
    found = sha256(rows.tobytes())
    for name in ("input_ids", "targets", "seq_idx", "source", "num_bytes"):
        found.update(
            np.concatenate([getattr(batch, name).numpy() for batch in micro_batches]).tobytes()
        )
    for field in ("source", "key", "start", "tokens"):
        found.update(np.concatenate([b.pieces[field] for b in micro_batches]).tobytes())
    return found.hexdigest()


def run(
    plan: StreamPlan,
    world_size: int,
    num_workers: int,
    start: int = 0,
    stop: int = NUM_STEPS,
    positions: dict[int, Positions] | None = None,
) -> tuple[list[str], dict[int, Positions]]:
    """Return the hashes of the global steps and the positions of all readers after them."""
    steps: list[list[Batch]] = [[] for _ in range(stop - start)]
    behind: dict[int, Positions] = {}
    for rank in range(world_size):
        readers = readers_of(rank, world_size, plan)
        loader = StreamLoader(plan, readers, positions or {}, start, num_workers)
        for step, part in zip(range(stop - start), loader, strict=stop == NUM_STEPS):
            steps[step] += part
        behind |= loader.positions_after(stop)
    return [digest(step) for step in steps], behind


@pytest.fixture
def reference(make_plan: Make) -> list[str]:
    """Return the steps of one rank without workers."""
    hashes, _ = run(make_plan(), 1, 0)
    assert len(set(hashes)) == NUM_STEPS
    return hashes


@pytest.mark.parametrize(
    ("world_size", "num_workers"), [(1, 2), (1, 3), (1, 9), (2, 0), (2, 1), (2, 2), (4, 0), (4, 1)]
)
def test_ranks_and_workers_change_nothing(
    world_size: int, num_workers: int, make_plan: Make, reference: list[str]
) -> None:
    assert run(make_plan(), world_size, num_workers)[0] == reference


def test_the_micro_batch_changes_nothing(make_plan: Make, reference: list[str]) -> None:
    budget = TokenBudget(NUM_STEPS * 512, 512, 64, micro_batch_size=4)
    assert run(make_plan(budget=budget), 2, 0)[0] == reference


@pytest.mark.parametrize("seed", range(4))
def test_three_resumes_with_other_ranks_and_workers_change_nothing(
    seed: int, make_plan: Make, reference: list[str]
) -> None:
    generator = np.random.default_rng(seed)
    stops = [*np.sort(generator.choice(np.arange(1, NUM_STEPS), 3, replace=False)), NUM_STEPS]
    found: list[str] = []
    positions: dict[int, Positions] = {}
    for stop, world_size, num_workers in zip(stops, (2, 1, 4, 2), (1, 2, 0, 0), strict=True):
        hashes, positions = run(
            make_plan(), world_size, num_workers, len(found), int(stop), positions
        )
        found += hashes
    assert found == reference


def test_what_workers_have_read_ahead_does_not_count(make_plan: Make) -> None:
    plan = make_plan()
    _, expected = run(plan, 1, 0, stop=5)
    loader = StreamLoader(plan, range(4), {}, 0, 2)
    for _, _ in zip(range(5), loader, strict=False):
        pass
    assert loader.positions_after(5) == expected


def test_a_plan_is_the_same_in_a_process_that_is_spawned(
    make_plan: Make, reference: list[str]
) -> None:
    assert run(pickle.loads(pickle.dumps(make_plan())), 1, 0)[0] == reference


def test_the_length_is_that_of_the_run(make_plan: Make) -> None:
    loader = StreamLoader(make_plan(), range(4), {}, 60, 0)
    assert (len(loader), len(list(loader))) == (NUM_STEPS, 4)


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (1, 2)])
def test_an_error_of_a_reader_is_shown_as_it_is(
    world_size: int, num_workers: int, make_plan: Make, make_corpus: Make
) -> None:
    plan = make_plan(weights={"s": 1.0}, corpora={"s": make_corpus([["a"]])})
    with pytest.raises(DataError, match=r"^reader \d finds no training document"):
        list(StreamLoader(plan, range(4), {}, 0, num_workers))


def test_ranks_that_cannot_share_the_readers_are_refused(make_plan: Make) -> None:
    with pytest.raises(ConfigError, match="num_readers = 4 is no multiple of world_size = 8"):
        readers_of(0, 8, make_plan())


@pytest.mark.parametrize("fault", ["429", "503", "drop", "hang", "refuse"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_faults_of_the_network_change_nothing(
    fault: str, num_workers: int, make_plan: Make, fault_server: Any
) -> None:
    urls = []
    for number in range(4):
        rows = [{"text": f"{number}-{i} " + "x" * (i % 70)} for i in range(60)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        fault_server.files[f"{number}.json.gz"] = gzip.compress(lines.encode())
        urls.append(f"{fault_server.url}{number}.json.gz")
    hub_rows = HubRows(
        dataset="json",
        split="train",
        columns=["text"],
        data_files=urls,
        patience=Patience(attempts=5, first_pause_seconds=0.0, timeout_seconds=0.5),
    )
    plan = make_plan(
        weights={"s": 1.0}, corpora={"s": ColumnCorpus(hub_rows, "test", "none", ["text"])}
    )
    calm, _ = run(plan, 1, 0)
    faults = {f"{number}.json.gz": [fault, "", "", fault] for number in range(4)}
    fault_server.faults |= faults
    assert run(plan, 1, num_workers)[0] == calm
    # Several epochs open every file several times, so that each has met both of its faults.
    assert not any(fault_server.faults.values())
