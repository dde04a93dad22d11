"""Training steps against plain PyTorch, and their independence of how a batch is cut."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.nn import functional as F
from torch.utils.data import DataLoader

from biomamba.data.batches import PIECE_DTYPE, Batch
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.model.loss import linear_cross_entropy
from biomamba.model.mamba2 import LayerState
from biomamba.runtime.errors import ConfigError, TrainingError
from biomamba.training.module import LanguageModelingModule, Objective, check_vocabulary
from biomamba.training.optimizer import AdamW, Constant
from biomamba.training.step_guard import SpikeDetection

VOCAB, LENGTH, ROWS = 32, 12, 4
# With eps = 1 an update is about lr times the gradient: Adam's usual division would blow up the
# rounding of gradients near zero.
SETTINGS = AdamW(lr=0.1, weight_decay=0.1, eps=1.0)
SMALL_STEPS = AdamW(lr=1e-6, weight_decay=0.0)
WEIGHTS = {"pubmed": 0.75, "web": 0.25}


def make_model() -> MambaLM:
    torch.manual_seed(0)
    config = Mamba2Config(d_model=16, n_layer=2, vocab_size=VOCAB, d_state=4, headdim=8)
    return MambaLM(config, ChunkedScan(chunk_size=4))


def make_rows(num_rows: int, seed: int = 0) -> Batch:
    """Rows of two documents each; the number of scored targets differs from row to row."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCAB, (num_rows, LENGTH + 1), generator=generator)
    targets = tokens[:, 1:].clone()
    for row in range(num_rows):
        targets[row, LENGTH - 2 * row :] = -100
    seq_idx = (torch.arange(LENGTH) >= LENGTH // 2).int().expand(num_rows, LENGTH)
    return Batch(
        input_ids=tokens[:, :-1],
        targets=targets,
        seq_idx=seq_idx.contiguous(),
        source=torch.arange(num_rows) % 2,
        num_bytes=torch.full((num_rows,), 5),
        row_ids=torch.arange(num_rows),
        pieces=np.array(
            [(row, row % 2, row, 0, LENGTH // 2) for row in range(num_rows) for _ in range(2)],
            dtype=PIECE_DTYPE,
        ),
    )


def cut(rows: Batch, micro_batch_size: int) -> list[Batch]:
    """Return the rows as micro-batches."""
    starts = range(0, len(rows.input_ids), micro_batch_size)
    fields = ("input_ids", "targets", "seq_idx", "source", "num_bytes", "row_ids")
    row = rows.pieces["row"]
    return [
        Batch(
            **{name: getattr(rows, name)[s : s + micro_batch_size] for name in fields},
            pieces=rows.pieces[(row >= s) & (row < s + micro_batch_size)],
        )
        for s in starts
    ]


def make_module(
    model: MambaLM,
    kind: type[LanguageModelingModule] = LanguageModelingModule,
    **settings: Any,
) -> LanguageModelingModule:
    settings = {
        "optimizer": SETTINGS,
        "schedule": Constant(total_tokens=1_000),
        "objective": Objective(max_grad_norm=0.5),
    } | settings
    return kind(model, source_weights=WEIGHTS, tokens_per_step=ROWS * LENGTH, **settings)


def make_trainer(folder: Path, **settings: Any) -> lightning.Trainer:
    return lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def fit(module: LanguageModelingModule, steps: Sequence[list[Batch]], folder: Path) -> None:
    trainer = make_trainer(folder, limit_val_batches=0)
    trainer.fit(module, make_loader(steps), make_loader([]))


def make_loader(items: Sequence[Any]) -> DataLoader[Any]:
    return DataLoader(items, batch_size=None)  # type: ignore[arg-type]


def test_sums_in_float64_do_not_depend_on_how_a_step_is_cut_up(tmp_path: Path) -> None:
    """The gradients of single rows are the same in any order; only their sums could differ."""
    found = []
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 4, 2, 0]):
        trained = make_model()
        module = make_module(trained, objective=Objective(0.5, gradient_sums="float64"))
        micro_batches = cut(make_rows(len(order)), 1)
        fit(module, [[micro_batches[row] for row in order]] * 3, tmp_path)
        found.append(trained.state_dict())
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_a_kernel_of_the_loss_that_cannot_run_is_refused_before_the_first_step(
    tmp_path: Path,
) -> None:
    module = make_module(make_model(), objective=Objective(loss_kernel="liger"))
    with pytest.raises(ConfigError, match=r"loss_kernel=liger runs on NVIDIA GPUs, .* on cpu"):
        fit(module, [[make_rows(ROWS)]], tmp_path)
    assert module.global_step == 0


def test_the_kernel_of_the_loss_is_the_one_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the kernel: our loss, counted; training with it is training with ours."""
    calls = []

    def counted(*tensors: Any, **options: Any) -> Any:
        calls.append(len(tensors))
        return linear_cross_entropy(*tensors, **options)

    monkeypatch.setattr("biomamba.model.loss.fused_linear_cross_entropy", counted)
    monkeypatch.setattr("biomamba.training.module.check_loss_kernel", lambda *_, **__: None)
    found = []
    for kernel in ("chunked", "liger"):
        model = make_model()
        module = make_module(model, objective=Objective(0.5, loss_kernel=kernel))
        fit(module, [[make_rows(ROWS)]], tmp_path)
        found.append(model.state_dict())
    assert len(calls) == 1
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize("max_grad_norm", [0.5, 1_000.0])  # clipped, and its size as it is
def test_a_step_equals_plain_pytorch(tmp_path: Path, max_grad_norm: float) -> None:
    rows = make_rows(ROWS)
    expected = make_model()
    optimizer = SETTINGS.build(expected)
    logits = expected(rows.input_ids, rows.seq_idx)
    # cross_entropy with mean reduction divides by the number of scored targets.
    F.cross_entropy(logits.flatten(0, 1), rows.targets.flatten(), ignore_index=-100).backward()
    torch.nn.utils.clip_grad_norm_(expected.parameters(), max_grad_norm)
    optimizer.step()
    trained = make_model()
    fit(make_module(trained, objective=Objective(max_grad_norm)), [[rows]], tmp_path)
    for (name, found), wanted in zip(
        trained.named_parameters(), expected.parameters(), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_weights_do_not_depend_on_the_micro_batch_size(
    tmp_path: Path, micro_batch_size: int
) -> None:
    steps = [make_rows(ROWS, seed) for seed in range(3)]
    whole, parts = make_model(), make_model()
    fit(make_module(whole), [[rows] for rows in steps], tmp_path)
    fit(make_module(parts), [cut(rows, micro_batch_size) for rows in steps], tmp_path)
    for (name, found), wanted in zip(parts.named_parameters(), whole.parameters(), strict=True):
        # Sums in another order: a few units of the last place of float32.
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7, msg=name)


def weighted(rows: Batch) -> Batch:
    """Weigh the targets of the second half of each row by three."""
    weights = torch.where(torch.arange(LENGTH) < LENGTH // 2, 1.0, 3.0) * (rows.targets >= 0)
    return replace(rows, weights=weights.float())


@pytest.mark.parametrize("segment_tokens", [None, 5])
def test_a_weighted_step_is_divided_by_the_sum_of_weights(
    tmp_path: Path, segment_tokens: int | None
) -> None:
    rows = weighted(make_rows(ROWS))
    assert rows.weights is not None
    expected = make_model()
    logits = expected(rows.input_ids, rows.seq_idx)
    each = F.cross_entropy(logits.flatten(0, 1), rows.targets.flatten(), reduction="none")
    loss = (each * rows.weights.flatten()).sum() / rows.weights.sum()
    module = make_module(make_model(), objective=Objective(0.5, segment_tokens=segment_tokens))
    parts = [
        replace(p, weights=w) for p, w in zip(cut(rows, 2), rows.weights.split(2), strict=True)
    ]
    fit(module, [parts], tmp_path)
    assert float(module.trainer.callback_metrics["train/loss"]) == pytest.approx(loss.item())
    if segment_tokens is None:  # segments stop gradients
        loss.backward()
        torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
        SETTINGS.build(expected).step()
        found, wanted = module.model.state_dict(), expected.state_dict()
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_weights_of_one_change_no_bit_of_a_step(tmp_path: Path) -> None:
    rows = make_rows(ROWS)
    plain, ones = make_model(), make_model()
    fit(make_module(plain), [[rows]], tmp_path)
    fit(make_module(ones), [[replace(rows, weights=(rows.targets >= 0).float())]], tmp_path)
    torch.testing.assert_close(ones.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_validation_knows_no_weights(tmp_path: Path) -> None:
    rows, results = make_rows(ROWS), []
    for batch in (rows, weighted(rows)):
        loaders = [make_loader([batch]), make_loader([batch])]
        module = make_module(make_model())
        results.append(make_trainer(tmp_path).validate(module, loaders, verbose=False))
    assert results[0] == results[1]


@pytest.mark.parametrize("state", ["reset", "carry", "zero"])
def test_a_row_in_segments_has_the_gradients_of_its_parts(tmp_path: Path, state: str) -> None:
    """Segments of half a row, which is where its second document starts."""
    rows, half = make_rows(ROWS), LENGTH // 2
    expected = make_model()
    _, states = expected.hidden(rows.input_ids[:, :half])
    kept = None
    if state == "carry":
        kept = [LayerState(*(part.detach() for part in layer)) for layer in states]
    hidden = torch.cat(
        [
            expected.hidden(rows.input_ids[:, :half])[0],
            expected.hidden(rows.input_ids[:, half:], states=kept)[0],
        ],
        dim=1,
    )
    logits = expected.logits(hidden)
    loss = F.cross_entropy(logits.flatten(0, 1), rows.targets.flatten(), ignore_index=-100)
    loss.backward()
    optimizer = SETTINGS.build(expected)
    torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
    for group in optimizer.param_groups:
        group["lr"] = SETTINGS.lr
    optimizer.step()

    model = make_model()
    objective = Objective(max_grad_norm=0.5, segment_tokens=half, segment_state=state)
    fit(make_module(model, objective=objective), [cut(rows, 2)], tmp_path)
    torch.testing.assert_close(model.state_dict(), expected.state_dict())


def test_a_segment_is_gone_before_the_next_one_begins(tmp_path: Path) -> None:
    events: list[str] = []

    class TellingScan(ChunkedScan):
        def scan(self, *tensors: torch.Tensor, **options: Any) -> Any:
            events.append("forward")
            return super().scan(*tensors, **options)

    class Telling(LanguageModelingModule):
        def manual_backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            events.append("backward")
            super().manual_backward(loss, *args, **kwargs)

    model = MambaLM(make_model().config, TellingScan(chunk_size=4))
    module = make_module(model, Telling, objective=Objective(segment_tokens=LENGTH // 3))
    fit(module, [cut(make_rows(ROWS), 2)], tmp_path)
    assert events == (["forward"] * model.config.n_layer + ["backward"]) * 3 * (ROWS // 2)


def test_uneven_segments_reset_as_a_whole_row_does(tmp_path: Path) -> None:
    """The first segment ends within the first document: no gradient comes back into it."""
    rows = make_rows(ROWS)
    losses = {}
    for tokens in (None, 5):
        objective = Objective(max_grad_norm=0.5, segment_tokens=tokens)
        module = make_module(make_model(), objective=objective)
        fit(module, [cut(rows, 2)], tmp_path)
        losses[tokens] = module.trainer.callback_metrics["train/loss"].item()
    assert losses[5] == pytest.approx(losses[None], rel=1e-6)


def test_scored_targets_and_documents_are_counted(tmp_path: Path) -> None:
    module = make_module(make_model())
    fit(module, [cut(make_rows(ROWS), 2)] * 2, tmp_path)
    # Rows 0 and 2 are pubmed with 12 and 8 targets, rows 1 and 3 web with 10 and 6; two steps.
    assert module.seen.tokens.tolist() == [40, 32]
    # Two documents to a row.
    assert module.seen.documents.tolist() == [8, 8]


def test_learning_rate_follows_the_schedule(tmp_path: Path) -> None:
    module = make_module(
        make_model(), schedule=Constant(total_tokens=ROWS * LENGTH * 4, warmup_ratio=1.0)
    )
    trainer = make_trainer(tmp_path, limit_val_batches=0)
    trainer.fit(module, make_loader([[make_rows(ROWS)]] * 2), make_loader([]))
    # Two of the four warm-up steps are done: half of the peak, in both groups.
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert rates == [pytest.approx(0.05)] * 2


def test_each_layer_has_its_part_of_the_rate(tmp_path: Path) -> None:
    module = make_module(
        make_model(),
        optimizer=AdamW(lr=0.1, weight_decay=0.1, layer_decay=0.5),
        schedule=Constant(total_tokens=ROWS * LENGTH * 4, warmup_ratio=1.0),
    )
    trainer = make_trainer(tmp_path, limit_val_batches=0)
    trainer.fit(module, make_loader([[make_rows(ROWS)]] * 2), make_loader([]))
    rates = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    # Half of the peak, and of that a half in the lower of two layers.
    assert rates["decay"] == rates["layer_01/decay"] == pytest.approx(0.05)
    assert rates["layer_00/decay"] == rates["layer_00/no_decay"] == pytest.approx(0.025)
    assert float(trainer.callback_metrics["train/lr/layer_00"]) == pytest.approx(0.025)


def test_validation_weighs_tokens_and_sources(tmp_path: Path) -> None:
    model = make_model()
    module = make_module(model)
    rows = make_rows(ROWS)
    loaders = [make_loader(cut(rows, 1)), make_loader([rows])]
    results = make_trainer(tmp_path).validate(module, loaders, verbose=False)
    found = {key: value for result in results for key, value in result.items()}
    with torch.no_grad():
        nll = F.cross_entropy(
            model(rows.input_ids, rows.seq_idx).flatten(0, 1), rows.targets.flatten()
        ).item()
    for source in WEIGHTS:
        assert found[f"val/{source}/perplexity"] == pytest.approx(math.exp(nll), rel=1e-5)
    # 36 scored targets in 4 rows of 5 bytes each.
    assert found["val/web/bits_per_byte"] == pytest.approx(nll * 36 / (20 * math.log(2)), rel=1e-5)
    assert found["val/loss"] == pytest.approx(nll, rel=1e-5)


class Faults(LanguageModelingModule):
    """Some steps fail as a broken kernel would: the loss, the gradients or both are not finite."""

    bad_steps: Sequence[int] = ()
    bad_loss, bad_gradient = math.nan, math.nan

    def _backward(self, batch: Sequence[Batch], step_tokens: torch.Tensor) -> torch.Tensor:
        nll_sum = super()._backward(batch, step_tokens)
        if self.global_step not in self.bad_steps:
            return nll_sum
        gradient = self.model.backbone.layers[0].norm.weight.grad
        assert gradient is not None
        gradient[0] = self.bad_gradient
        return nll_sum * self.bad_loss


def make_faulty(bad_steps: Sequence[int], **settings: Any) -> Faults:
    module = make_module(make_model(), Faults, **settings)
    assert isinstance(module, Faults)
    module.bad_steps = bad_steps
    return module


def weights_of(module: LanguageModelingModule) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.model.named_parameters()}


def adam_state(trainer: lightning.Trainer) -> list[dict[str, torch.Tensor]]:
    state = trainer.optimizers[0].state_dict()["state"]
    return [state[number] for number in sorted(state)]


@pytest.mark.parametrize(
    ("bad_loss", "bad_gradient"),
    [(math.nan, 0.0), (1.0, math.nan), (1.0, -math.inf), (math.inf, math.inf)],
)
def test_a_skipped_step_leaves_nothing_behind(
    tmp_path: Path, bad_loss: float, bad_gradient: float
) -> None:
    steps = [[make_rows(ROWS, seed)] for seed in range(5)]
    faulty = make_faulty([0, 2, 3])
    faulty.bad_loss, faulty.bad_gradient = bad_loss, bad_gradient
    trainer = make_trainer(tmp_path, limit_val_batches=0)
    trainer.fit(faulty, make_loader(steps), make_loader([]))
    # A constant schedule: the same as never to have met these steps.
    clean = make_module(make_model())
    clean_trainer = make_trainer(tmp_path, limit_val_batches=0)
    clean_trainer.fit(clean, make_loader([steps[1], steps[4]]), make_loader([]))
    assert_equal_trees(weights_of(faulty), weights_of(clean))
    assert_equal_trees(adam_state(trainer), adam_state(clean_trainer))
    assert trainer.global_step == 5  # the position continues
    assert (faulty.guard.skipped_steps, faulty.guard.skipped_in_a_row) == (3, 0)
    # The data of a skipped step is consumed: 36 targets a step.
    assert int(faulty.seen.tokens.sum()) == 5 * 36


def assert_equal_trees(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_validation_after_a_skipped_step_is_that_of_the_weights(tmp_path: Path) -> None:
    module = make_faulty([0])
    loaders = [make_loader([make_rows(ROWS)])] * 2
    trainer = make_trainer(tmp_path, val_check_interval=1, num_sanity_val_steps=0)
    trainer.fit(module, make_loader([[make_rows(ROWS)]]), loaders)
    found = float(trainer.callback_metrics["val/loss"])
    (expected, *_) = make_trainer(tmp_path).validate(
        make_module(make_model()), loaders, verbose=False
    )
    assert found == pytest.approx(expected["val/loss"])


def test_a_fault_of_another_rank_skips_the_step_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module(make_model())
    before = weights_of(module)
    # What the other rank contributes to the figures: its loss is not a number.
    other = torch.tensor([math.nan, 1.0, 1.0])
    monkeypatch.setattr(
        module, "_global_sum", lambda value: value + other if value.shape == (3,) else value
    )
    fit(module, [[make_rows(ROWS)]], tmp_path)
    assert module.guard.skipped_steps == 1
    assert_equal_trees(weights_of(module), before)


def test_a_skipped_step_is_written_down_without_text(tmp_path: Path) -> None:
    fit(make_faulty([1]), [cut(make_rows(ROWS), 2)] * 2, tmp_path)
    (line,) = (tmp_path / "unusual_steps" / "rank_00000.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["step"], record["reason"], record["is_taken"]) == (1, "not finite", False)
    assert record["row_ids"] == [0, 1, 2, 3]
    assert record["documents"] == [
        {"source": source, "key": f"{key:016x}"} for source, key in ((0, 0), (0, 2), (1, 1), (1, 3))
    ]


def test_too_many_skipped_steps_in_a_row_stop_the_run(tmp_path: Path) -> None:
    module = make_faulty([0, 1, 3, 4, 5], objective=Objective(max_skipped_steps=3))
    with pytest.raises(
        TrainingError, match=r"step 5 was skipped .*nan\), 3 such steps in a row"
    ) as told:
        fit(module, [[make_rows(ROWS)]] * 8, tmp_path)
    assert "callbacks.checkpoint is switched off" in str(told.value)
    assert all(torch.isfinite(weight).all() for weight in weights_of(module).values())


def test_a_spike_is_counted_and_only_skipped_if_asked_for(tmp_path: Path) -> None:
    steps = [[make_rows(ROWS)]] * 12
    taken = {}
    for skip in (False, True):
        spikes = SpikeDetection(window_steps=8, min_steps=4, deviations=20.0, skip=skip)
        module = make_faulty([8], objective=Objective(spikes=spikes), optimizer=SMALL_STEPS)
        module.bad_loss, module.bad_gradient = 50.0, 0.1
        fit(module, steps, tmp_path)
        assert module.guard.spikes == 1
        taken[skip] = 12 - module.guard.skipped_steps
    assert taken == {False: 12, True: 11}


def test_the_guard_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    spikes = Objective(spikes=SpikeDetection(window_steps=8, min_steps=4))
    module, resumed = (make_faulty([2, 3], objective=spikes) for _ in range(2))
    trainer = make_trainer(tmp_path, limit_val_batches=0)
    trainer.fit(module, make_loader([[make_rows(ROWS)]] * 4), make_loader([]))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    loaded = torch.load(tmp_path / "half.ckpt", weights_only=True)
    resumed.on_load_checkpoint(loaded)
    assert resumed.guard.skipped_in_a_row == 2
    assert resumed.guard.state_dict() == module.guard.state_dict()


def scaled_trainer(folder: Path, scale: float) -> lightning.Trainer:
    """A trainer whose loss is scaled as with fp16; on a CPU, where bf16 stands in for it."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10_000)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    plugin.precision = "bf16-mixed"
    return make_trainer(folder, limit_val_batches=0, plugins=[plugin])


def test_a_loss_scaler_skips_what_overflows_and_goes_on(tmp_path: Path) -> None:
    model = make_model()
    torch.nn.init.constant_(model.backbone.norm_f.weight, 32.0)  # gradients of about 8
    module = make_module(model)
    before = module.model.backbone.embedding.weight.detach().clone()
    # Gradients times 2**127 exceed float32; the scaler halves until they fit.
    trainer = scaled_trainer(tmp_path, scale=2.0**127)
    trainer.fit(module, make_loader([[make_rows(ROWS)]] * 8), make_loader([]))
    assert 0 < module.guard.skipped_steps < 8
    assert trainer.global_step == 8
    assert torch.isfinite(module.model.backbone.embedding.weight).all()
    assert not torch.equal(module.model.backbone.embedding.weight, before)


def test_a_vocabulary_larger_than_the_model_is_refused() -> None:
    check_vocabulary(50_277, 50_277)
    with pytest.raises(ConfigError, match=r"vocab_size is 257, but .* 8192 ids"):
        check_vocabulary(257, 8_192)
