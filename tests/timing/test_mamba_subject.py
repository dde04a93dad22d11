"""Our model as it is measured."""

from typing import Any

import pytest
import torch

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.timing.candidates import MambaSubject
from biomamba.timing.records import Point

CHUNK = 8


@pytest.fixture
def subject(tiny: Mamba2Config) -> MambaSubject:
    scan = ChunkedScan(CHUNK)
    return MambaSubject(MambaLM(tiny, scan).eval(), torch.float32, 16, scan)


@torch.no_grad()
def test_what_it_reads_and_writes_is_the_model(subject: MambaSubject) -> None:
    prompt = list(range(40))
    model = subject.module
    first = model(torch.tensor([prompt]))[:, -1].argmax(-1)

    assert torch.equal(subject.first_ids([prompt], 3), first)
    ids, rows = subject.begin([prompt], 3)
    assert torch.equal(ids, first)
    for _ in range(3):
        prompt = [*prompt, int(ids)]
        ids = rows.step(ids)
        assert torch.equal(ids, model(torch.tensor([prompt]))[:, -1].argmax(-1))


@torch.no_grad()
def test_a_token_takes_as_much_behind_any_context(subject: MambaSubject, operations: Any) -> None:
    """Operations that are executed, operations that are counted, and bytes that are kept."""
    executed, kept = [], []
    for length in (1, 16, 200):
        ids, rows = subject.begin([[5] * length], 4)
        with operations() as noted:
            for _ in range(4):
                ids = rows.step(ids)
            rows.reset()
        executed.append(noted.found)
        kept.append(rows.held_bytes())
    counted = {subject.operations(Point("decode", 1, length), 4) for length in (1, 16, 200)}

    assert len(executed[0]) > 100
    assert executed[0] == executed[1] == executed[2]
    assert len(set(kept)) == len(counted) == 1


def test_operations_by_hand(subject: MambaSubject, tiny: Mamba2Config) -> None:
    """4 layers, 64 inner channels, 16 states; 64 rows of the table of 32."""
    table = 64 * 32
    blocks = tiny.num_parameters() - table
    states, chunks = 4 * 64 * 16, CHUNK * (2 * 16 + 2 * 64)
    forward = 2 * blocks + 4 * (states + chunks)

    assert subject.operations(Point("train", 3, 10), 5) == 3 * 30 * (forward + 2 * table)
    assert subject.operations(Point("prefill", 3, 10), 5) == 30 * forward + 3 * 2 * table
    step = 2 * blocks + 4 * states + 2 * table
    assert subject.operations(Point("decode", 3, 10), 5) == 3 * 5 * step


@pytest.mark.parametrize("phase", ["train", "prefill"])
def test_operations_are_linear_in_length_and_rows(subject: MambaSubject, phase: str) -> None:
    def at(batch: int, length: int) -> float:
        return subject.operations(Point(phase, batch, length), 1)

    assert at(2, 64) == 2 * at(1, 64)
    assert at(1, 256) - at(1, 128) == 2 * (at(1, 128) - at(1, 64))


def test_it_says_what_it_is(subject: MambaSubject, tiny: Mamba2Config) -> None:
    assert (subject.name, subject.num_parameters) == ("mamba2", tiny.num_parameters())
    assert (subject.shape["backend"], subject.shape["n_layer"]) == ("chunked", 4)


@torch.no_grad()
def test_narrow_products_keep_the_weights_wide(tiny: Mamba2Config) -> None:
    scan = ChunkedScan()
    subject = MambaSubject(MambaLM(tiny, scan), torch.bfloat16, 16, scan)
    ids, rows = subject.begin([[1, 2, 3]], 1)

    assert rows.step(ids).shape == (1,)
    assert subject.head_weight.dtype == torch.float32
