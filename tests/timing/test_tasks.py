"""A step, a prompt, and tokens after it."""

from typing import Any

import pytest
import torch

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.timing.candidates import MambaSubject, Subject, TransformerSubject, equal_shape
from biomamba.timing.records import EfficiencySettings, Point
from biomamba.timing.session import (
    DecodeTask,
    PrefillTask,
    ProductTask,
    Training,
    make_task,
    row_of,
)

CPU = torch.device("cpu")
SETTINGS = EfficiencySettings(phases=["train"], lengths=[16], batches=[2], decode_tokens=3)


@pytest.fixture(params=["ours", "theirs"])
def subject(request: pytest.FixtureRequest, tiny: Mamba2Config) -> Subject:
    if request.param == "ours":
        scan = ChunkedScan()
        return MambaSubject(MambaLM(tiny, scan), torch.float32, 16, scan)
    return TransformerSubject.build(equal_shape(tiny), 64, CPU, torch.float32)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_trains_every_weight_and_leaves_no_gradient(
    subject: Subject, precision: str
) -> None:
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    training = Training(subject, precision, dtype)
    held = training.held_bytes()
    before = {n: p.clone() for n, p in subject.module.named_parameters()}
    task = make_task(subject, training, Point("train", 2, 16), SETTINGS)
    task.prepare()
    task.run()

    for name, parameter in subject.module.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        assert parameter.grad is None
    # Weights, and both averages of AdamW; each parameter has a counter of its own.
    wanted = 3 * 4 * subject.num_parameters + 4 * len(before)
    assert wanted <= task.held_bytes() == held <= wanted + 64


def test_a_step_lowers_the_loss_on_its_rows(subject: Subject) -> None:
    training = Training(subject, "32-true", torch.float32)
    ids = row_of(subject, 2, 16)

    def loss() -> float:
        with torch.no_grad():
            logits = subject.hidden(ids[:, :-1]) @ subject.head_weight.T
        found = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        return float(found)

    before = loss()
    for _ in range(20):
        training.step(ids)
    assert loss() < before


def test_both_models_read_the_same_ids(tiny: Mamba2Config) -> None:
    scan = ChunkedScan()
    ours = MambaSubject(MambaLM(tiny, scan), torch.float32, 16, scan)
    theirs = TransformerSubject.build(equal_shape(tiny), 64, CPU, torch.float32)

    assert torch.equal(row_of(ours, 2, 30), row_of(theirs, 2, 30))
    assert row_of(ours, 2, 30).shape == (2, 31)


@pytest.mark.parametrize(("phase", "kind"), [("prefill", PrefillTask), ("decode", DecodeTask)])
def test_prompts_are_read_without_gradients(subject: Subject, phase: str, kind: type[Any]) -> None:
    task = make_task(subject, None, Point(phase, 2, 16), SETTINGS)
    assert isinstance(task, kind)
    for _ in range(2):
        task.prepare()
        task.run()

    assert all(p.grad is None for p in subject.module.parameters())
    assert task.held_bytes() >= 4 * subject.num_parameters


def test_decoding_begins_behind_the_prompt_and_writes_so_many(tiny: Mamba2Config) -> None:
    """The cache of the Transformer has room for the context and the new tokens, no more."""
    subject = TransformerSubject.build(equal_shape(tiny), 64, CPU, torch.float32)
    task = make_task(subject, None, Point("decode", 1, 16), SETTINGS)
    for _ in range(3):
        task.prepare()
        task.run()
    longer = DecodeTask(subject, [[1] * 16], 3)
    longer.run()
    with pytest.raises(IndexError):
        longer.run()  # without going back to the end of the prompt there is no room


def test_a_product_counts_its_operations(operations: Any) -> None:
    task = ProductTask(8, torch.float32, CPU)
    with operations() as noted:
        task.prepare()
        task.run()
    sizes = [shapes for name, shapes in noted.found if name.startswith("aten.mm")]

    assert sizes == [((8, 8), (8, 8))] * 4
    assert task.operations == 4 * 2 * 8**3
    assert task.held_bytes() == 2 * 8 * 8 * 4
