"""The three kinds of work that are measured: a step of training, a prompt, tokens behind it."""

import torch
from torch import Tensor

from biomamba.model.cross_entropy import linear_cross_entropy
from biomamba.timing.memory import held_bytes
from biomamba.timing.settings import DECODE, TRAIN, EfficiencySettings, Point
from biomamba.timing.subject import Subject
from biomamba.timing.turns import Task
from biomamba.training.gradients import clip, global_norm
from biomamba.training.optimizer import AdamW

_OPTIMIZER = AdamW(lr=1e-5, weight_decay=0.1)
_MAX_GRAD_NORM = 1.0
_FIRST_STEP_TOKENS = 16  # the step in which the optimizer takes its memory


class Training:
    """A model with its optimizer, in steps of one batch, as biomamba.train takes them.

    Head, loss, clipping and optimizer are the same for every model.
    """

    def __init__(self, subject: Subject, precision: str, product_dtype: torch.dtype) -> None:
        self._subject, self._dtype = subject, product_dtype
        self._optimizer = _OPTIMIZER.build(subject.module)
        self._device = subject.head_weight.device.type
        self._scaler = torch.amp.GradScaler(self._device, enabled=precision == "16-mixed")
        subject.module.train()
        self.step(row_of(subject, 1, _FIRST_STEP_TOKENS))

    def step(self, ids: Tensor) -> None:
        """Take one step on rows of ids (rows, length + 1)."""
        is_narrow = self._dtype != torch.float32
        with torch.autocast(self._device, dtype=self._dtype, enabled=is_narrow):
            hidden = self._subject.hidden(ids[:, :-1]).flatten(0, 1)
            targets = ids[:, 1:].flatten()
            nll_sum = linear_cross_entropy(hidden, self._subject.head_weight, targets)
        loss: Tensor = self._scaler.scale(nll_sum / len(targets))
        loss.backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimizer)
        gradients = [p.grad for p in self._subject.module.parameters() if p.grad is not None]
        clip(gradients, global_norm(gradients, lambda part: part), _MAX_GRAD_NORM)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def held_bytes(self) -> int:
        """Count the bytes of weights and of the state of the optimizer."""
        return held_bytes(self._subject.module, dict(self._optimizer.state))


class TrainTask:
    """One step on rows of random ids."""

    def __init__(self, training: Training, ids: Tensor) -> None:
        self._training, self._ids = training, ids

    def prepare(self) -> None:
        """Do nothing: a step leaves what the next one needs."""

    def run(self) -> None:
        """Take the step."""
        self._training.step(self._ids)

    def held_bytes(self) -> int:
        """Count the bytes of weights and of the state of the optimizer."""
        return self._training.held_bytes()


class PrefillTask:
    """From prompts to the first new id of each."""

    def __init__(self, subject: Subject, prompts: list[list[int]], new_tokens: int) -> None:
        self._subject, self._prompts, self._new_tokens = subject, prompts, new_tokens

    def prepare(self) -> None:
        """Do nothing: nothing is kept."""

    @torch.no_grad()
    def run(self) -> None:
        """Read the prompts, and wait for the ids as a reader would."""
        self._subject.first_ids(self._prompts, self._new_tokens).tolist()

    def held_bytes(self) -> int:
        """Count the bytes of weights."""
        return held_bytes(self._subject.module)


class DecodeTask:
    """New tokens behind prompts that were read."""

    @torch.no_grad()
    def __init__(self, subject: Subject, prompts: list[list[int]], new_tokens: int) -> None:
        self._first_ids, self._rows = subject.begin(prompts, new_tokens)
        self._new_tokens = new_tokens

    def prepare(self) -> None:
        """Go back to the end of the prompts."""
        self._rows.reset()

    @torch.no_grad()
    def run(self) -> None:
        """Write the tokens, each when the one before is known."""
        ids = self._first_ids
        for _ in range(self._new_tokens):
            ids = self._rows.step(ids)
        ids.tolist()

    def held_bytes(self) -> int:
        """Count the bytes of weights and of what is kept of the prompts."""
        return self._rows.held_bytes()


def make_task(
    subject: Subject, training: Training | None, point: Point, settings: EfficiencySettings
) -> Task:
    """Return the work of a point; `training` is needed for that of the phase `train`."""
    if point.phase == TRAIN:
        assert training is not None
        return TrainTask(training, row_of(subject, point.batch, point.length))
    prompts: list[list[int]] = row_of(subject, point.batch, point.length)[:, :-1].tolist()
    kind = DecodeTask if point.phase == DECODE else PrefillTask
    return kind(subject, prompts, settings.decode_tokens)


def row_of(subject: Subject, rows: int, length: int) -> Tensor:
    """Return random ids (rows, length + 1), for every subject the same."""
    weight = subject.head_weight
    draw = torch.Generator().manual_seed(length)
    return torch.randint(len(weight), (rows, length + 1), generator=draw).to(weight.device)


class ProductTask:
    """Products of square matrices: what the device can do at best."""

    _TIMES = 4

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._a, self._b = torch.randn(2, size, size, device=device).to(dtype)
        self.operations = 2.0 * size**3 * self._TIMES

    def prepare(self) -> None:
        """Do nothing."""

    @torch.no_grad()
    def run(self) -> None:
        """Multiply them, as fast as they come."""
        for _ in range(self._TIMES):
            torch.nn.functional.linear(self._a, self._b)

    def held_bytes(self) -> int:
        """Count the bytes of both matrices."""
        return held_bytes([self._a, self._b])
